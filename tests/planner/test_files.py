"""Untrusted documents are read within limits, and files are written whole or not at all."""

from __future__ import annotations

import os
import stat

import pytest

from shardwright.planner.errors import InputError
from shardwright.planner.files import MAX_INPUT_BYTES, parse_json, parse_yaml, read_document, sha256_of, write_atomic


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_a_json_and_a_yaml_file_of_the_same_content_have_the_same_hash(tmp_path):
    (tmp_path / "a.json").write_text('{"b": [1, 2.5], "a": "x"}')
    (tmp_path / "a.yaml").write_text("a: x\nb:\n- 1\n- 2.5\n")
    first, second = (read_document(tmp_path / name, "input") for name in ("a.json", "a.yaml"))
    assert first == second
    assert sha256_of(first) == sha256_of(second)


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    refused(lambda: read_document(tmp_path / "none.json", "topology"), "topology", "none.json", "nothing")
    refused(lambda: read_document(tmp_path, "topology"), "directory")


def test_a_ten_megabyte_file_is_refused_by_size(tmp_path):
    path = tmp_path / "big.json"
    path.write_text('"' + "x" * (MAX_INPUT_BYTES + 1) + '"')
    refused(lambda: read_document(path, "model config"), "larger than", "8 MB")


@pytest.mark.parametrize("depth", [65, 100_000])
def test_deep_nesting_is_refused_in_both_formats(depth):
    refused(lambda: parse_json("[" * depth + "]" * depth, "f"), "nested deeper")
    refused(lambda: parse_yaml("[" * depth + "]" * depth, "f"), "nested deeper" if depth < 1000 else "f")


def test_brackets_inside_strings_are_not_nesting():
    assert parse_json('{"a": "' + "[" * 100 + '\\""}', "f") == {"a": "[" * 100 + '"'}


@pytest.mark.parametrize("text", ["{", '{"a": NaN}', '{"a": Infinity}', "", "[1,]"])
def test_malformed_json_is_refused_with_the_place(text):
    refused(lambda: parse_json(text, "config c.json"), "config c.json", "JSON")


def test_numbers_that_are_not_finite_are_refused_with_their_path():
    refused(lambda: parse_yaml("a:\n- 1\n- .nan\n", "f"), "$.a[1]", "finite")
    refused(lambda: parse_json('{"a": 1e999}', "f"), "f")


def test_yaml_aliases_and_tags_are_refused():
    refused(lambda: parse_yaml("a: &x [1]\nb: *x\n", "f"), "aliases")
    refused(lambda: parse_yaml("!!python/object/apply:os.system ['true']\n", "f"), "YAML")


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", '{"x": {"gbs": 1, "gbs": 2}}'), ("a.yaml", "x:\n- {gbs: 1, seq: 3, gbs: 2}\n")]
)
def test_a_key_that_stands_twice_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    refused(lambda: read_document(tmp_path / name, "job"), name, "'gbs' stands twice")


def test_yaml_keys_are_text():
    refused(lambda: parse_yaml("a:\n  1: x\n", "f"), "line 2", "text")
    assert parse_yaml("a:\n  '1': x\n", "f") == {"a": {"1": "x"}}


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": "\xff"}')
    refused(lambda: read_document(path, "input"), "UTF-8", "byte 7")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "plan.json"
    write_atomic(path, "old")
    refused(lambda: write_atomic(tmp_path / "none" / "plan.json", "new"), "cannot be written")
    refused(lambda: write_atomic(tmp_path, "new"), "directory")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    write_atomic(path, "new")
    assert path.read_text() == "new"


def test_a_pipe_or_device_is_written_to_and_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, "plan")
        assert os.read(reader, 10) == b"plan"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)

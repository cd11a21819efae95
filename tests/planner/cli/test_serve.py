"""`shardwright serve` as a user meets it."""

from __future__ import annotations

import json

import pytest

from shardwright.planner.cli.main import run

JOB = ["serve", "llama-3.1-8b", "--cluster", "dgx-h100:1", "--isl", "500", "--osl", "50"]


def test_a_load_within_its_targets_ends_with_a_valid_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([*JOB, "--rate", "4", "--ttft", "1s", "--tpot", "50ms", "-o", "plan.json", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["targets_met"]
    assert plan["prediction"]["ttft"]["at_percentile_s"] <= 1.0
    assert run(["validate", "plan.json"]) == 0


def test_the_same_load_gives_the_same_bytes(capsys):
    outputs = []
    for _ in range(2):
        assert run([*JOB, "--rate", "4", "--json"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_a_tampered_serving_plan_does_not_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([*JOB, "--rate", "4", "--ttft", "1s", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    plan["prediction"]["ttft"]["at_percentile_s"] = 5.0
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert run(["validate", "plan.json"]) == 5
    assert "target" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--rate", "4", "--tpot", "1us"], 3, "nearest attainable"),
        (["--rate", "-4"], 2, "rate"),
        (["--rate", "4", "--ttft", "1"], 2, "500ms"),
        (["--rate", "4", "--objective", "luck"], 2, "luck"),
        (["--rate", "4", "--quantization", "fp7"], 2, "fp7"),
        (["--trace", "none.csv"], 2, "none.csv"),
    ],
)
def test_wrong_or_unattainable_requests_are_one_line(capsys, arguments, code, word):
    assert run([*JOB, *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert word in error

"""What README and docs tell users to type exists: commands, options, and the files shown."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import typer

from shardwright.planner import FleetJob
from shardwright.planner.cli.main import build
from shardwright.planner.files import parse_yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def typed(page: Path) -> Iterator[list[str]]:
    """The words of every `shardwright …` that is shown to be typed, in blocks and between backticks."""
    text = page.read_text()
    lines = [line for language, block in blocks(page) if not language for line in block.splitlines()]
    lines += re.findall(r"`(shardwright [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for line in lines:
        words = shlex.split(line.replace("…", ""), comments=True)
        if words[:1] == ["shardwright"]:
            yield words[1:]


def unknown_words(words: list[str]) -> list[str]:
    """The command or options that the program does not have."""
    command = typer.main.get_command(build(words[0]))
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return words[:1]
        command, words = command.commands[words[0]], words[1:]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    return [word for word in words if re.match(r"-[-a-z]", word) and word.partition("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_has_the_options_it_is_shown_with(page):
    assert [(words, wrong) for words in typed(page) if (wrong := unknown_words(words))] == []


def test_commands_are_found_and_wrong_ones_told():
    assert sum(1 for page in PAGES for _ in typed(page)) > 20
    assert unknown_words(["train", "gpt2", "--cluster", "dgx-h100", "--speed", "high"]) == ["--speed"]
    assert unknown_words(["dance"]) == ["dance"]


def test_every_file_and_program_shown_can_be_read():
    offers = dict(blocks(ROOT / "docs" / "offers.md"))["yaml"]
    assert msgspec.convert(parse_yaml(offers, "docs"), FleetJob).models[0].model == "llama-3.1-8b"
    for page in PAGES:
        for language, block in blocks(page):
            if language == "python":
                ast.parse(block)


def test_every_target_named_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"\bmake ([a-z][a-z-]+)\b(?=[`\s]*(?:#|\||`|,))", page.read_text())) <= targets

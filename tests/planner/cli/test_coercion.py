"""Options read themselves: texts, numbers, lists, and one line for what they cannot be."""

from __future__ import annotations

import pytest
import typer

from shardwright.planner.cli.coercion import read_plainly


def application(seen: dict) -> typer.Typer:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command()
    def only(name: str, share: float = 0.5, count: int | None = None, many: list[float] | None = None) -> None:
        seen.update(name=name, share=share, count=count, many=many)

    return app


def run(arguments: list[str]) -> dict:
    seen: dict = {}
    command = typer.main.get_command(application(seen))
    read_plainly(command)
    command(arguments, standalone_mode=False)
    return seen


def test_texts_and_numbers_are_read_and_what_is_not_given_keeps_its_default():
    assert run(["a"]) == {"name": "a", "share": 0.5, "count": None, "many": None}
    given = run(["7", "--share", "2", "--count", "3", "--many", "1", "--many", "2.5"])
    assert given == {"name": "7", "share": 2.0, "count": 3, "many": [1.0, 2.5]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "--count", "3.5"], "'3.5' is not a whole number"),
        (["a", "--share", "much"], "'much' is not a number"),
        (["a", "--many", "1", "--many", "x"], "'x' is not a number"),
    ],
)
def test_what_cannot_be_read_is_told_by_option_and_value(arguments, words):
    with pytest.raises(Exception) as refusal:
        run(arguments)
    assert words in refusal.value.format_message()
    assert arguments[-2] in refusal.value.format_message()

"""Options declared in records reach the command as parameters of its own would."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from typer.testing import CliRunner

from shardwright.planner.cli.records import with_options


class Thing:
    name: Annotated[str, typer.Argument()]
    size: Annotated[int, typer.Option(help="How large.")] = 3


class More:
    loud: Annotated[bool, typer.Option()] = False


@with_options(Thing, More)
def say(context: typer.Context) -> None:
    """Say it."""
    typer.echo(json.dumps(context.params, sort_keys=True))


def invoked(*arguments: str):
    app = typer.Typer()
    app.command()(say)
    return CliRunner().invoke(app, arguments)


def test_values_and_defaults_are_in_the_context():
    assert json.loads(invoked("box").output) == {"name": "box", "size": 3, "loud": False}
    assert json.loads(invoked("box", "--size", "5", "--loud").output) == {"name": "box", "size": 5, "loud": True}


def test_what_is_required_or_of_another_type_is_refused():
    assert invoked().exit_code == 2
    assert invoked("box", "--size", "large").exit_code == 2


def test_help_keeps_the_order_and_the_sentence():
    text = invoked("--help").output
    assert "Say it." in text
    assert text.index("--size") < text.index("--loud")

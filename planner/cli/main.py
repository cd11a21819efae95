"""The `shardwright` program: its commands, and how each outcome ends."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, ShardwrightError
from .coercion import read_plainly

COMMANDS = (
    ("train", "Split a training job over a cluster."),
    ("serve", "Deploy a model under latency targets."),
    ("fleet", "Rent the cheapest fleet of GPUs for a load."),
    ("experts", "Place the experts of a mixture-of-experts model."),
    ("estimate", "Predict a given strategy without searching."),
    ("validate", "Check a plan from first principles."),
    ("export", "Write a plan in a launcher's own form."),
)
GROUPS = (
    ("topology", "Show accelerators, clusters and topology files."),
    ("models", "Show the model catalog and configurations."),
)


LONGEST_WORD = 300
"""Letters of one word of a message: paths are shorter, and what a hostile file has in place of a name is cut."""

NAMES = tuple(name for name, _ in (*COMMANDS, *GROUPS))


def _version(show: bool) -> None:
    if show:
        from ..version import VERSION

        print(f"shardwright {VERSION}")  # noqa: T201
        raise typer.Exit


def build(wanted: str | None = None) -> typer.Typer:
    """The application with every command registered; only the one `wanted` is loaded, the others are names (None: all).

    Help is plain text: boxes and colours would take as long to load as the rest together.
    """
    app = typer.Typer(
        name="shardwright",
        help="Plans for large language models on the machines you really have.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def _root(
        _show: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    ) -> None:
        pass

    for name, summary in COMMANDS:
        function = getattr(import_module(f"..{name}", __name__), name) if wanted in (None, name) else _not_loaded
        app.command(name, short_help=summary)(function)
    for name, summary in GROUPS:
        group = import_module(f"..{name}", __name__).app if wanted in (None, name) else _named_only()
        app.add_typer(group, name=name, help=summary, no_args_is_help=True)
    return app


def _not_loaded() -> None:
    raise AssertionError("the command that was called is the one that is loaded")


def _named_only() -> typer.Typer:
    app = typer.Typer()
    app.command("show")(_not_loaded)
    app.callback()(_not_loaded)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit with the code of the outcome (see planner.errors)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell closed it
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the program
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """The exit code of one invocation; every failure is one line on stderr."""
    try:
        _refuse_unwritable(arguments)
        command = typer.main.get_command(build(next((word for word in arguments if word in NAMES), "")))
        read_plainly(command)
        outcome = command(arguments, standalone_mode=False)
        sys.stdout.flush()
    except ShardwrightError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        _let_go_of_stdout()
        return 0
    except OSError as error:
        _let_go_of_stdout()
        return _fail(f"{error.filename or 'output'}: cannot be read or written ({error.strerror})", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except Exception as error:
        if hasattr(error, "format_message"):
            message = error.format_message()
            if message.startswith("Usage:"):  # no argument was given: this is the help
                print(message)  # noqa: T201
                return 2
            return _fail(message, 2)
        if os.environ.get("SHARDWRIGHT_DEBUG"):
            raise
        return _fail(f"internal error, please report: {type(error).__name__}: {error}", 1)
    return outcome if isinstance(outcome, int) else 0


def _let_go_of_stdout() -> None:
    """Nothing more is written to it, not even as the interpreter ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_unwritable(arguments: list[str]) -> None:
    """Raise InputError for bytes that no plan could name its inputs by."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(f"the argument {word!a} is not UTF-8 text") from None


def _fail(message: str, code: int) -> int:
    words = (word if len(word) <= LONGEST_WORD else f"{word[:LONGEST_WORD]}…" for word in message.split())
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(words))
    print(f"error: {text}", file=sys.stderr)  # noqa: T201
    return code

"""Commands whose options are declared in records, so that commands share them and stay short."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import typer

Command = Callable[[typer.Context], None]


def with_options(*records: type) -> Callable[[Command], Callable[..., None]]:
    """A command of a context alone as one with the options that the records declare, in their order.

    A record is a class of annotated names, as typer takes parameters, those with a default after those without; the
    command reads their values from `context.params`.
    """

    def made(command: Command) -> Callable[..., None]:
        def run(**given: Any) -> None:
            command(given["context"])

        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        run.__signature__ = inspect.Signature([context, *_parameters(records)])  # type: ignore[attr-defined]  # read by typer
        run.__name__, run.__doc__, run.__annotations__ = command.__name__, command.__doc__, {}
        return run

    return made


def _parameters(records: tuple[type, ...]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(record, name, inspect.Parameter.empty),
            annotation=annotation,
        )
        for record in records
        for name, annotation in get_type_hints(record, include_extras=True).items()
    ]

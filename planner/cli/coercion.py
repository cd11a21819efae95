"""How words of the command line become numbers, without the validation library that typer would load for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

_WANTED: dict[type, str] = {int: "a whole number", float: "a number", str: "a text", bool: "yes or no"}
_LISTS: dict[Any, type] = {list[int]: int, list[float]: float, list[str]: str}


def read_plainly(command: Any) -> None:
    """Let every option of a command and of its subcommands that is a flag, a text, a number or a list of them read
    itself.

    Since 0.26 typer loads pydantic for the first option of all, which takes longer than most commands. Other versions
    do not look at what is set here.
    """
    for child in getattr(command, "commands", {}).values():
        read_plainly(child)
    for option in [*command.params, command.get_help_option(typer.Context(command))]:
        kind: Any = getattr(getattr(option, "type_descriptor", None), "annotation", None)
        if kind is not None and (kind in _WANTED or kind in _LISTS):
            option._runtime_param = _Plain(_LISTS.get(kind) or kind, kind in _LISTS)


class _Plain:
    """Reads one option's text; typer asks it by `coerce`."""

    def __init__(self, kind: Callable[[Any], Any], many: bool) -> None:
        self.kind, self.many = kind, many

    def coerce(self, value: Any, *, param: Any, ctx: Any) -> Any:
        """The option's value, texts read as what it holds. Raises typer.BadParameter for what cannot be read."""
        if value is None:
            return () if self.many else None
        if self.many:
            return [self._one(item, param, ctx) for item in value]
        return self._one(value, param, ctx)

    def _one(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return self.kind(value)
        except ValueError:
            wanted = _WANTED[self.kind]  # type: ignore[index]  # a Callable that is one of the types above
            raise typer.BadParameter(f"{value!r} is not {wanted}.", ctx=ctx, param=param) from None

"""Numbers with units, and the tables that hold them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPED_WIDTH = 120
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def console(stream: TextIO | None = None) -> Console:
    """A console on stdout (or another stream), as wide as the terminal, or 120 columns when piped."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # which is no failure, as it would be to rich

    stream = stream or sys.stdout
    return _Console(file=stream, width=None if stream.isatty() else _PIPED_WIDTH, highlight=False, soft_wrap=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table: the first column left-aligned, the last too when it is an explanation, numbers right-aligned."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        text = index == 0 or name in ("why", "what", "source")
        made.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=index == 0)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))  # names come from files: never markup
    return made


def si(value: float, unit: str, digits: int = 3) -> str:
    """`1.23 TB`: decimal prefixes above one, plain below."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def duration(seconds: float) -> str:
    """`1.23 s`, `45.6 ms`, `7.8 µs`, `2.5 h` or `3.1 days`."""
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} days"
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return "0 s" if seconds == 0 else f"{seconds / 1e-9:.3g} ns"


def gigabytes(value: float) -> str:
    """Bytes as decimal gigabytes with one digit."""
    return f"{value / 1e9:.1f} GB"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{100 * fraction:.{digits}f} %"


def count(value: int) -> str:
    """An integer with thin grouping: `1,234,567`."""
    return f"{value:,}"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural but for one."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

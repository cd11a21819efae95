"""Cells of a table of measurements: numbers that may be blank, odd or wrong, and why a row cannot be used."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

Row = Mapping[str, str | None]
_NOTHING = ("", "nan", "none", "n/a", "na", "null", "-", "?")


class UnusableError(Exception):
    """A row that cannot be predicted; the message is the reason that is counted."""


class TableError(Exception):
    """A file that is no table of measurements known here; the message says what it lacks."""


def unreadable(error: TableError | OSError) -> int:
    """The exit code of a file that cannot be read or is another table, with one line that says so."""
    reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
    print(f"error: {reason}", file=sys.stderr)
    return 2


def text(row: Row, column: str) -> str:
    """A cell without surrounding blanks; an absent column reads as empty."""
    value = row.get(column)
    return value.strip() if isinstance(value, str) else ""


def number(row: Row, column: str) -> float | None:
    """A cell as a finite number, None when blank; raises UnusableError when it is something else."""
    cell = text(row, column)
    if cell.lower() in _NOTHING:
        return None
    try:
        value = float(cell.replace(",", "").replace("_", ""))
    except ValueError:
        raise UnusableError(f"{column} is not a number") from None
    if not math.isfinite(value):
        raise UnusableError(f"{column} is not a number")
    return value


def positive(row: Row, column: str) -> float | None:
    """A cell as a number above zero, None when blank or zero; raises UnusableError when negative or not a number."""
    value = number(row, column)
    if value is not None and value < 0:
        raise UnusableError(f"{column} is negative")
    return value or None


def count(row: Row, column: str) -> int | None:
    """A cell as an integer of at least 1, None when blank or zero; raises UnusableError when it is something else."""
    value = positive(row, column)
    if value is None:
        return None
    if value != int(value) or value > 1e12:
        raise UnusableError(f"{column} is not a whole number")
    return int(value)


def required(row: Row, column: str) -> int:
    """A count that must be there; raises UnusableError naming the column when it is not."""
    value = count(row, column)
    if value is None:
        raise UnusableError(f"{column} not given")
    return value


def flag(row: Row, column: str) -> bool | None:
    """A yes-or-no cell, None when blank or unclear."""
    cell = text(row, column).lower()
    if cell in ("1", "1.0", "true", "yes", "on", "y"):
        return True
    if cell in ("0", "0.0", "false", "no", "off", "n"):
        return False
    return None

"""What the commands share: units, output and the way errors end."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..plan.base import PlanBase

_DURATION_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_BYTES = {
    "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
    "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40,
}  # fmt: skip

_COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def parse_duration(text: str, name: str = "duration") -> float:
    """Seconds from `500ms`, `2s`, `1.5h`. Raises InputError; a bare number has no unit and is refused."""
    return _quantity(text, _DURATION_S, name, "500ms, 2s or 1.5h")


def parse_size(text: str) -> float:
    """Bytes from `80GB` (decimal) or `64GiB` (binary). Raises InputError; a bare number is refused."""
    return _quantity(text, _SIZE_BYTES, "size", "80GB or 64GiB")


def parse_count(text: str) -> int:
    """A whole number from `15T`, `300B`, `1.5e12` or `20000`. Raises InputError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE]\d{1,2})?)\s*([kKMBGT]?)\s*", text)
    if match is None:
        raise InputError(f"count {text!r} must be a positive number such as 15T, 300B or 1.5e12")
    return round(float(match[1]) * _COUNTS[match[2].upper()])


def _quantity(text: str, units: dict[str, float], kind: str, example: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if match is None or match[2].lower() not in units:
        raise InputError(f"{kind} {text!r} must be a positive number with a unit, such as {example}")
    return float(match[1]) * units[match[2].lower()]


def writable(output: str | None) -> str | None:
    """The place for a plan, refused before the search when nothing can be written there. Raises InputError."""
    from ..files import check_output

    if output is not None:
        check_output(output)
    return output


def emit(plan: PlanBase, *, json: bool, output: str | None, view: Callable[[], None]) -> None:
    """Write the plan where asked: to a file, to stdout as JSON, or as the terminal view on stderr's side.

    With `json`, stdout carries the document and nothing else.
    """
    from ..plan.io import dump

    emit_text(dump(plan), "plan", json=json, output=output, view=view)


def emit_text(text: str, what: str, *, json: bool, output: str | None, view: Callable[[], None]) -> None:
    """Write a JSON document where asked, or show the view; `what` names it."""
    from ..files import write_atomic

    if output is not None:
        write_atomic(output, text)
    if json:
        sys.stdout.write(text)
        return
    view()
    if output is not None:
        print(f"{what} written to {output}", file=sys.stderr)  # noqa: T201


def emit_json(value: object) -> None:
    """One JSON value on stdout, indented, keys in order."""
    sys.stdout.write(json_text(value))


def json_text(value: object) -> str:
    """A value as JSON, indented, keys in order."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode() + "\n"

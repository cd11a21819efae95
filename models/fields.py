"""Fields of a Hugging Face configuration, read as what they must be or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from .errors import ModelError

_Value = TypeVar("_Value", int, bool, str)

MAX_LAYERS = 4096
MAX_HEADS = 65_536
MAX_WIDTH = 1 << 24
MAX_VOCAB = 1 << 27
MAX_POSITIONS = 1 << 40
MAX_EXPERTS = 65_536


def shown(value: object) -> str:
    """A value as an error message shows it: its repr on one line, cut to 60 characters."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"an object with {len(value)} fields"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return f"an integer of {value.bit_length()} bits"
    if not isinstance(value, str | int | float | bool | None):
        return f"a {kind}"
    text = repr(value[:61] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


class Fields:
    """Checked access to one configuration object.

    Every reading method takes the field's name and its aliases. A null counts as absent. An absent field is refused
    unless a default is given, which must be the documented default of the configuration class; each default used is
    noted in `assumptions`. Aliases that contradict each other are refused.
    """

    def __init__(self, document: Mapping[str, object], architecture: str, path: str = "") -> None:
        self.document = document
        self.architecture = architecture
        self.path = path
        self.assumptions: list[str] = []

    def has(self, *names: str) -> bool:
        """Whether any of these fields is present and not null."""
        return any(self.document.get(name) is not None for name in names)

    def count(self, *names: str, low: int = 1, high: int = MAX_WIDTH, default: int | None = None) -> int:
        """An integer between `low` and `high`."""
        name, value = self._find(names)
        if value is None:
            if default is None:
                raise self.missing(names, f"an integer between {low} and {high}")
            return self._assume(names[0], default)
        return self._integer(name, value, low, high)

    def optional_count(self, *names: str, low: int = 1, high: int = MAX_WIDTH) -> int | None:
        """An integer between `low` and `high`, or None when absent or null, which the family documents as `none`."""
        return self.count(*names, low=low, high=high) if self.has(*names) else None

    def nullable_count(self, name: str, low: int = 1, high: int = MAX_WIDTH) -> int | None:
        """An integer between `low` and `high`, or an explicit null; only absence is refused."""
        if name not in self.document:
            raise self.missing((name,), f"null or an integer between {low} and {high}")
        return self.optional_count(name, low=low, high=high)

    def flag(self, *names: str, default: bool | None = None) -> bool:
        """A boolean."""
        name, value = self._find(names)
        if value is None:
            if default is None:
                raise self.missing(names, "true or false")
            return self._assume(names[0], default)
        if not isinstance(value, bool):
            raise ModelError(f"field {self.path}{name} must be true or false but got {shown(value)}")
        return value

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """One of the allowed words."""
        value = self.document.get(name)
        if value is None:
            return self._assume(name, default)
        if not isinstance(value, str) or value not in allowed:
            raise ModelError(f"field {self.path}{name} must be one of {', '.join(allowed)} but got {shown(value)}")
        return value

    def counts(self, name: str, *, low: int, high: int, length: int | None = None) -> tuple[int, ...]:
        """A list of integers, of `length` items if given."""
        items = self._items(name, length)
        return tuple(self._integer(f"{name}[{index}]", item, low, high) for index, item in enumerate(items))

    def words(self, name: str, allowed: Sequence[str], length: int) -> tuple[str, ...]:
        """A list of `length` words, each one of the allowed."""
        for index, item in enumerate(self._items(name, length)):
            if not isinstance(item, str) or item not in allowed:
                raise ModelError(
                    f"field {self.path}{name}[{index}] must be one of {', '.join(allowed)} but got {shown(item)}"
                )
        items: tuple[str, ...] = tuple(str(item) for item in self._items(name, length))
        return items

    def sequence(self, name: str) -> Sequence[object]:
        """A list of whatever items."""
        return self._items(name, None)

    def nested(self, name: str) -> Fields:
        """The fields of an inner object; its assumptions are added to these."""
        value = self.document.get(name)
        if value is None:
            raise self.missing((name,), "an object")
        if not isinstance(value, Mapping):
            raise ModelError(f"field {self.path}{name} must be an object but got {shown(value)}")
        inner = Fields(value, self.architecture, f"{self.path}{name}.")
        inner.assumptions = self.assumptions
        return inner

    def divides(self, divisor_name: str, divisor: int, name: str, value: int) -> int:
        """value / divisor. Raises ModelError naming both fields when the division leaves a rest."""
        if value % divisor:
            raise ModelError(f"field {self.path}{name} must be a multiple of {divisor_name} {divisor} but got {value}")
        return value // divisor

    def refuse(self, name: str, rule: str) -> ModelError:
        """The error for a field that breaks a rule of its family: `must …`."""
        return ModelError(f"field {self.path}{name} {rule} but got {shown(self.document.get(name))}")

    def missing(self, names: Sequence[str], expected: str) -> ModelError:
        """The error for an absent field."""
        also = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
        return ModelError(f"field {self.path}{names[0]}{also} is missing: {self.architecture} needs {expected}")

    def assume(self, note: str) -> None:
        """Record what this reader takes for granted."""
        if note not in self.assumptions:
            self.assumptions.append(note)

    def _assume(self, name: str, default: _Value) -> _Value:
        word = str(default).lower() if isinstance(default, bool) else default
        self.assume(f"{self.path}{name} not given: {word}, the default of {self.architecture}")
        return default

    def _find(self, names: Sequence[str]) -> tuple[str, object]:
        found = [(name, self.document[name]) for name in names if self.document.get(name) is not None]
        if not found:
            return names[0], None
        for name, value in found[1:]:
            if value != found[0][1]:
                raise ModelError(
                    f"field {self.path}{name} must equal {found[0][0]} {shown(found[0][1])} but got {shown(value)}"
                )
        return found[0]

    def _items(self, name: str, length: int | None) -> Sequence[object]:
        value = self.document.get(name)
        size = f"a list of {length} items" if length is not None else "a list"
        if value is None:
            raise self.missing((name,), size)
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise ModelError(f"field {self.path}{name} must be {size} but got {shown(value)}")
        if len(value) > MAX_LAYERS:
            raise ModelError(f"field {self.path}{name} must have at most {MAX_LAYERS} items but got {shown(value)}")
        return value

    def _integer(self, name: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ModelError(
                f"field {self.path}{name} must be an integer between {low} and {high} but got {shown(value)}"
            )
        return value

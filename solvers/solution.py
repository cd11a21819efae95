"""What every solver returns, and the rules that tell it when to stop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Status(StrEnum):
    """How a search ended; the value is what a reader may conclude."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    LIMIT = "limit"


def relative_gap(value: float, bound: float) -> float:
    """|value - bound| / |value|: zero when both are zero, infinite when either is unknown."""
    if not (math.isfinite(value) and math.isfinite(bound)):
        return math.inf
    if value == bound:
        return 0.0
    return abs(value - bound) / abs(value) if value else math.inf


@dataclass(frozen=True)
class Solution(Generic[T]):
    """The outcome of a search: a point, its value and a proven bound on every other point's value.

    Problems are minimized unless the solver says otherwise. `work` counts the solver's own steps, so that it is the
    same on every machine; `seconds` is wall time and is not. `reason` says why there is no point.
    """

    status: Status
    point: T | None
    value: float = math.nan
    bound: float = -math.inf
    seconds: float = 0.0
    work: int = 0
    reason: str = ""

    @property
    def gap(self) -> float:
        """Relative distance between the value and the bound."""
        return relative_gap(self.value, self.bound)


@dataclass(slots=True)
class Progress:
    """What a running solver tells a stopping rule."""

    value: float = math.inf
    bound: float = -math.inf
    work: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Wall time since the search began."""
        return time.perf_counter() - self.started


class Stop(Protocol):
    """Anything that looks at the progress and says whether to stop."""

    def __call__(self, progress: Progress) -> bool:
        """True when the search should end now."""


class _Composable:
    __slots__ = ()

    def __or__(self: Stop, other: Stop) -> Stop:
        return AnyOf((self, other))


@dataclass(frozen=True, slots=True)
class AnyOf(_Composable):
    """Stop as soon as one of the rules says so."""

    rules: tuple[Stop, ...]

    def __call__(self, progress: Progress) -> bool:
        return any(rule(progress) for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Seconds(_Composable):
    """Stop after a wall time; what is found then depends on the machine."""

    limit: float

    def __call__(self, progress: Progress) -> bool:
        return progress.seconds >= self.limit


@dataclass(frozen=True, slots=True)
class Work(_Composable):
    """Stop after a number of the solver's own steps; the same answer on every machine."""

    limit: int

    def __call__(self, progress: Progress) -> bool:
        return progress.work >= self.limit


@dataclass(frozen=True, slots=True)
class Gap(_Composable):
    """Stop once the value is proven within a relative distance of the optimum."""

    limit: float = 0.0

    def __call__(self, progress: Progress) -> bool:
        return relative_gap(progress.value, progress.bound) <= self.limit

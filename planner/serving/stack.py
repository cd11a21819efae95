"""Many workers at once: their costs and schedules as rows of arrays, for the closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..costs.serving.formulas import Array, StepCost, StepCosts, column, together
from .schedule import Schedule, Schedules

# Numbers of an array at most: larger ones are new pages of memory each time, which costs more than the sums do.
BLOCK = 8192


@dataclass(frozen=True, slots=True)
class Stack:
    """Workers of one model on one engine, a row each."""

    cost: StepCosts
    schedule: Schedules

    def __len__(self) -> int:
        return len(self.cost.groups)

    def blocks(self, points: int) -> Iterator[tuple[slice, Stack]]:
        """So many rows at a time that arrays of `points` columns stay small, and which rows they are."""
        rows = max(1, BLOCK // points)
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            schedule = self.schedule
            cut = replace(
                schedule,
                token_budget=schedule.token_budget[part],
                max_sequences=schedule.max_sequences[part],
                cache_tokens=schedule.cache_tokens[part],
            )
            yield part, Stack(self.cost.rows(part), cut)

    def each(self, points: int, of: Callable[[Stack], Array]) -> list[float]:
        """A number of every row, by a formula that makes arrays of so many columns of them."""
        return [number for _, rows in self.blocks(points) for number in of(rows).tolist()]


def stacked(costs: Sequence[StepCost], schedules: Sequence[Schedule]) -> Stack:
    """Workers by their costs and schedules, which differ in numbers alone."""
    first = schedules[0]
    return Stack(
        together(costs),
        Schedules(
            token_budget=column([each.token_budget for each in schedules]),
            max_sequences=column([each.max_sequences for each in schedules]),
            cache_tokens=column([each.cache_tokens for each in schedules]),
            policy=first.policy,
            whole_prompts=first.whole_prompts,
            reserve_output=first.reserve_output,
        ),
    )

"""The replicas that a fleet is planned with: all that may be in a better one than is known, whole and split.

What is left out is left out against a value. Where the plan comes to cost more, because a simulation lowers what its
replicas carry, more is made: whatever the bound at the cost model's means leaves in against the new value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidate
from .columns import Columns, Known, ValueOf
from .split import candidate_of
from .split_space import MOST_WORKERS, Space, Splits

FIRST_SPLITS = 24
UNKNOWN_SPLITS = 96
"""Split replicas while no fleet is known within the caps."""
PLACED = "prefill and decode pools are rented in one region and tier"


@dataclass
class Supply:
    """Replicas by the cost model; at most `most_splits` have pools, those that add least to the bound.

    `outside` is the best value of a fleet with a split replica beyond that, a cost or a multiple of the rates; None
    where every one left out is proven useless.
    """

    columns: Columns
    most_splits: int
    outside: float | None = None
    _space: Space | None = field(default=None, repr=False)
    _asked: Known | None = field(default=None, repr=False)

    def begin(self, value_of: ValueOf) -> None:
        """Make what matters beside the whole replicas made; `value_of` is the best fleet of some replicas."""
        self.grow(value_of(self.columns.made))
        self.columns.one_each()

    def split(self, value_of: ValueOf) -> None:
        """Make the split replicas that matter, where any are asked for."""
        if not self.most_splits:
            return
        self._space, self._asked = Space(self.columns), None
        known = value_of(self.columns.made)
        self.columns.refine(known, self._space.prices)
        first = [candidate_of(each) for each in self._left(self._space, known).splits[:FIRST_SPLITS]]
        self.grow(value_of(self.columns.made + first))

    def grow(self, known: Known) -> list[Candidate]:
        """Make what may be in a better fleet than the one known and was not made before; that alone is returned."""
        columns = self.columns
        if self._asked is not None and self._asked.covers(known):
            return []
        self._asked, before = known, len(columns.made)
        if self._space is None:
            columns.refine(known)
            return columns.made[before:]
        columns.refine(known, self._space.prices)
        left = self._left(self._space, known)
        most = self.most_splits if math.isfinite(known.value) else min(UNKNOWN_SPLITS, self.most_splits)
        made = {(each.model, each.layout) for each in columns.made if len(each.pools) > 1}
        chosen = _chosen(left, most)
        splits = [candidate_of(left.splits[at]) for at in np.flatnonzero(chosen)]
        self.outside = None if chosen.all() else _outside(left, known, ~chosen)
        columns.made += [each for each in splits if (each.model, each.layout) not in made]
        return columns.made[before:]

    def notes(self) -> tuple[str, ...]:
        """What was looked into, and what the proof rests on."""
        columns, found = self.columns, []
        if columns.layouts_all:
            found.append(
                f"{columns.layouts_made} of {columns.layouts_all} layouts were looked into; by the cost model's means "
                "the others cannot be part of a better fleet"
            )
        if self._space is not None:
            kept = sum(len(each.pools) > 1 for each in columns.made)
            rest = (
                "the others can be part of no better fleet"
                if self.outside is None
                else "the bound is that of a fleet with others"
            )
            found += [
                PLACED,
                f"{kept} of {self._space.count} split replicas of up to {MOST_WORKERS} workers a phase are planned "
                f"with: by the cost model's means {rest}",
            ]
        return (*columns.notes, *found)

    def _left(self, space: Space, known: Known) -> Splits:
        return Splits(self.columns, space.promising(known)).better(known)


def _chosen(splits: Splits, most: int) -> NDArray[np.bool_]:
    """At most so many of the splits, which stand with the least addition to the bound first: up to half are those that
    hold the load of their model alone for least."""
    chosen = np.zeros(len(splits.splits), bool)
    if len(chosen) > most:
        alone = splits.alone()
        first = np.argsort(alone, kind="stable")[: most // 2]
        chosen[first[np.isfinite(alone[first])]] = True
    chosen[np.flatnonzero(~chosen)[: most - int(chosen.sum())]] = True
    return chosen


def _outside(splits: Splits, known: Known, left_out: NDArray[np.bool_]) -> float:
    """The best value of a fleet with one of the splits left out."""
    bound, added = splits.added(known)
    least = float(added[left_out].min())
    if splits.columns.job.objective == "throughput":
        return (known.value - least) / bound
    return (bound * known.multiples + least) / known.hours

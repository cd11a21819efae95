"""Costs of stages from the costs of their units: options such as recomputing, capacities, fixed parts, spread units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .partition import Floats, Ints, Partition, PartitionProblem


@dataclass(frozen=True, slots=True)
class Segments:
    """Every unit's cost and size on every stage, for each of a few options that a stage may take for all its units.

    `cost` and `size` have shape [stages, options, units], with kinds in front where there are any; `fixed_cost` and
    `fixed_size` [..., stages, options] are added to every stage, empty or not. A stage's size must not exceed its
    `capacity` [..., stages]. Stages may be empty where `may_be_empty` says so, by default nowhere.
    """

    cost: Floats
    size: Floats
    capacity: Floats
    fixed_cost: ArrayLike = 0.0
    fixed_size: ArrayLike = 0.0
    may_be_empty: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.cost.ndim not in (3, 4) or self.cost.shape != self.size.shape:
            raise ValueError(f"cost and size must have one shape but have {self.cost.shape} and {self.size.shape}")
        if self.capacity.shape != self.cost.shape[:-2]:
            raise ValueError(f"capacity must have shape {self.cost.shape[:-2]} but has {self.capacity.shape}")
        if not (self.cost.min(initial=0.0) >= 0 and self.size.min(initial=0.0) >= 0):
            raise ValueError("costs and sizes of units must not be negative")

    def problem(
        self, uses: Ints | None = None, available: Ints | None = None, switch: Floats | None = None
    ) -> PartitionProblem:
        """The partition problem in which every stage takes its cheapest option that fits."""
        return PartitionProblem(self._tables().min(axis=-3), uses, available, switch)

    def options(self, partition: Partition) -> Ints:
        """The option of every stage of a partition: the cheapest that fits, the first of equals."""
        tables = self._tables()
        tables = tables if tables.ndim == 5 else tables[None]
        stages, begins = np.arange(len(partition.ends)), partition.ends - partition.sizes
        chosen = tables[partition.kinds, stages, :, begins, partition.ends]
        return np.asarray(chosen.argmin(axis=1))

    def _tables(self) -> Floats:
        """Cost of units i … j - 1 by stage and option, infinite where they do not fit, [..., stages, options, i, j]."""
        cost = _sums(self.cost) + np.asarray(self.fixed_cost, dtype=np.float64)[..., None, None]
        size = _sums(self.size) + np.asarray(self.fixed_size, dtype=np.float64)[..., None, None]
        units = np.arange(self.cost.shape[-1] + 1)
        backwards = units[:, None] > units
        empty = units[:, None] == units
        refused = empty if self.may_be_empty is None else empty & ~self.may_be_empty[..., :, None, None, None]
        over = size > self.capacity[..., None, None, None] * (1 + 1e-12)
        return np.where(backwards | refused | over, np.inf, cost)


def spread(segments: Segments, unit: int, overhead_cost: float = 0.0) -> Segments:
    """The chain without one unit, whose cost and size every stage bears an equal share of.

    Vocabulary parallelism: the output layer is divided over all pipeline stages (Yeung et al., "Balancing Pipeline
    Parallelism with Vocabulary Parallelism", MLSys'25), at some overhead on each.
    """
    stages = segments.cost.shape[-3]
    return replace(
        segments,
        cost=np.delete(segments.cost, unit, axis=-1),
        size=np.delete(segments.size, unit, axis=-1),
        fixed_cost=segments.fixed_cost + segments.cost[..., unit] / stages + overhead_cost,
        fixed_size=segments.fixed_size + segments.size[..., unit] / stages,
    )


def _sums(values: Floats) -> Floats:
    """Sums over units i … j - 1, shape [..., units + 1, units + 1]; meaningless where j < i."""
    total = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, out=total[..., 1:])
    return np.asarray(total[..., None, :] - total[..., :, None])

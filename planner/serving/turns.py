"""Who takes the next request: pools by their weights, and of a pool's workers the one with the fewest in hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .schedule import Schedule, StepTable


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal workers; `weight` is the pool's share of new requests, 0 where they go to whoever has fewest in hand."""

    table: StepTable
    schedule: Schedule
    workers: int
    weight: float = 0.0


class Turns:
    """Whose turn it is: pools take requests in proportion to their weights, each when it is furthest behind; `hands`
    are the requests in hand of every worker."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        total = sum(pool.weight for pool in pools)
        self.pools = pools
        self.weighted = len(pools) > 1 and all(pool.weight > 0 for pool in pools)
        self.shares = [pool.weight / total for pool in pools] if self.weighted else []
        self.behind = [0.0] * len(pools)
        ends = np.cumsum([pool.workers for pool in pools]).tolist()
        self.ranges = [(end - pool.workers, end) for pool, end in zip(pools, ends, strict=True)]
        self.hands = [0] * sum(pool.workers for pool in pools)

    def next(self) -> int:
        """The worker that takes the next request."""
        return self.least(self.next_pool()) if self.weighted else self.hands.index(min(self.hands))

    def least(self, pool: int) -> int:
        """The worker of a pool with the fewest requests in hand."""
        start, end = self.ranges[pool]
        return self.hands.index(min(self.hands[start:end]), start)

    def next_pool(self) -> int:
        """The pool that takes the next request, where they have weights."""
        behind = self.behind
        for place, share in enumerate(self.shares):
            behind[place] += share
        chosen = behind.index(max(behind))
        behind[chosen] -= 1
        return chosen

"""What a choice between two objectives looks like, and how safe a plan is when links are not what they seemed."""

from __future__ import annotations

import msgspec

from ..strategy import Strategy
from ..workload.training import Objective


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class FrontierPoint(_Record, frozen=True):
    """A strategy on a cluster that none beats in one objective without losing in the other, and its two values."""

    cluster: str
    strategy: Strategy
    label: str
    first: float
    second: float


class Frontier(_Record, frozen=True):
    """All compromises between two objectives, best in the first to best in the second. `proven` says that the
    whole space of every cluster was searched or bounded away. Every strategy is reached by a point to within `gap` in
    both objectives, as a share: 0 unless links are uneven, where the front of the fastest links bounds."""

    model: str
    objectives: tuple[Objective, Objective]
    points: tuple[FrontierPoint, ...]
    proven: bool
    gap: float
    candidates: int
    work: int


class Rival(_Record, frozen=True):
    """A strategy that was best in some of the samples, or ranks best on average after the plan."""

    label: str
    wins: int
    mean_rank: float


class Robustness(_Record, frozen=True):
    """The regret of a plan when every bandwidth is off by up to `spread` on its own, over seeded samples.

    Regret is how much worse the plan is by its objective than the best of the `rivals_considered` strategies, each on
    the devices planned for it, and than its own strategy on devices ordered anew for the sample, as a share.
    `order_regret` is the mean against the latter alone, None where all links are alike. `best_in` counts the samples
    in which nothing beats the plan; its rank among the strategies is 1 where none of them does.
    """

    samples: int
    spread: float
    seed: int
    rivals_considered: int
    best_in: int
    mean_regret: float
    worst_regret: float
    mean_rank: float
    worst_rank: int
    order_regret: float | None = None
    rivals: tuple[Rival, ...] = ()

"""How safe a plan is: its regret when every bandwidth turns out to be somewhat other than was thought."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..costs.keys import Floats
from ..costs.network import Groups, Network
from ..costs.step import TrainingCosts
from ..plan.frontier import Rival, Robustness
from ..workload.strategy_table import StrategyTable, concatenate
from .search import evaluated

SPREAD = 0.2
CONSIDERED = 32


@dataclass(frozen=True)
class ScaledNetwork(Network):
    """A network whose links run faster or slower by one factor inside domains and another between them.

    A transfer over links f times as fast takes as long as one of 1/f of the bytes.
    """

    inside: float
    between: float

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry."""
        factor = np.where(groups.domains > 1, self.between, self.inside)
        return super().seconds(op, size_bytes / factor, groups)


def robustness(
    costs: TrainingCosts, tables: Sequence[StrategyTable], *, samples: int, seed: int = 0, spread: float = SPREAD
) -> Robustness:
    """Regret of the first of the strategies against the others over seeded samples of the links' bandwidths."""
    table = concatenate(tables)
    wins: Counter[int] = Counter()
    regrets = []
    for network in _networks(costs.network, samples, np.random.default_rng(seed), spread):
        step_s = _timed(costs, network, table)
        winner = int(np.argmin(step_s))
        wins[0 if step_s[0] <= step_s[winner] else winner] += 1
        regrets.append(float(step_s[0] / step_s[winner] - 1))
    rivals = [Rival(label=table.row(i).label(), wins=n) for i, n in wins.most_common() if i]
    return Robustness(
        samples=samples,
        spread=spread,
        seed=seed,
        rivals_considered=len(table) - 1,
        best_in=wins[0],
        mean_regret=float(np.mean(regrets)),
        worst_regret=max(regrets),
        rivals=tuple(rivals),
    )


def _networks(base: Network, samples: int, random: np.random.Generator, spread: float) -> Iterator[Network]:
    for inside, between in random.uniform(1 - spread, 1 + spread, (samples, 2)).tolist():
        yield ScaledNetwork(base.collectives, base.domain, inside, between)


def _timed(costs: TrainingCosts, network: Network, table: StrategyTable) -> NDArray[np.float64]:
    other = copy.copy(costs)
    other.network = network
    return evaluated(other, table).step_s

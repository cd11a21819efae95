"""How safe a plan is: its regret when every bandwidth turns out to be somewhat other than was thought."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Collectives, Topology, uncertain

from ..costs.keys import Floats
from ..costs.network import MappedNetwork, Network
from ..costs.step import TrainingCosts
from ..plan.frontier import Rival, Robustness
from ..workload.strategy_table import StrategyTable, concatenate
from .context import Context
from .mapping import node_order
from .objectives import objective_values
from .search import Candidate, evaluated

SPREAD = 0.2
CONSIDERED = 32
CONSIDERED_PLACED = 12  # on real groups, whose links every sample has to look up
NAMED = 3
ORDER_WORK = 20_000


def robustness(
    context: Context, candidates: Sequence[Candidate], *, samples: int, seed: int = 0, spread: float = SPREAD
) -> Robustness:
    """Regret of the first of the candidates against the others, and against better orders of its devices, over seeded
    samples of the bandwidths."""
    candidates = candidates[: CONSIDERED if candidates[0].devices is None else CONSIDERED_PLACED]
    random = np.random.default_rng(seed)
    document = context.topology.document
    together = _together(candidates)
    values = np.empty((samples, len(candidates)))
    ordered = np.full(samples, np.inf)
    for row in range(samples):
        topology = uncertain(document, random, spread)
        for each in together:
            values[row, each.rows] = _valued(context, topology, each.costs, each.table)
        ordered[row] = _ordered_anew(context, topology, candidates[0])
    best = np.minimum(values.min(axis=1), ordered)
    regrets = values[:, 0] / best - 1
    ranks = 1 + (values[:, None, :] < values[:, :, None]).sum(axis=2)
    wins = np.bincount(np.argmin(values, axis=1), minlength=len(candidates))
    return Robustness(
        samples=samples,
        spread=spread,
        seed=seed,
        rivals_considered=len(candidates) - 1,
        best_in=int(np.count_nonzero(regrets <= 0)),
        mean_regret=float(regrets.mean()),
        worst_regret=float(regrets.max()),
        mean_rank=float(ranks[:, 0].mean()),
        worst_rank=int(ranks[:, 0].max()),
        order_regret=_order_regret(values[:, 0], ordered),
        rivals=_rivals(candidates, wins, ranks.mean(axis=0)),
    )


def _order_regret(planned: Floats, ordered: Floats) -> float | None:
    if not np.isfinite(ordered).any():
        return None
    return float(np.maximum(planned / ordered - 1, 0.0).mean())


def _rivals(candidates: Sequence[Candidate], wins: NDArray[np.int64], ranks: Floats) -> tuple[Rival, ...]:
    """Those that win most often, and of those that never do the best few on average."""
    order = [i for i in np.lexsort((ranks, -wins)).tolist() if i]
    named = [i for i in order if wins[i]] or order[:NAMED]
    return tuple(
        Rival(label=candidates[i].table.row(0).label(), wins=int(wins[i]), mean_rank=float(ranks[i])) for i in named
    )


@dataclass(frozen=True, slots=True)
class _Together:
    """Candidates that stand on the same devices, as one table, and their positions."""

    costs: TrainingCosts
    table: StrategyTable
    rows: NDArray[np.int64]


def _together(candidates: Sequence[Candidate]) -> list[_Together]:
    groups: dict[bytes, list[int]] = {}
    for i, each in enumerate(candidates):
        groups.setdefault(b"" if each.devices is None else each.devices.tobytes(), []).append(i)
    return [
        _Together(candidates[rows[0]].costs, concatenate([candidates[i].table for i in rows]), np.array(rows))
        for rows in groups.values()
    ]


def _valued(context: Context, topology: Topology, costs: TrainingCosts, table: StrategyTable) -> Floats:
    """Objective of every row on other links, whatever the limits."""
    other, network = copy.copy(costs), costs.network
    collectives = Collectives(topology, network.collectives.coefficients)
    if isinstance(network, MappedNetwork):
        other.network = MappedNetwork(collectives, network.domain, network.devices)
    else:
        other.network = Network(collectives, network.domain)
    return objective_values(context.goal.objective, evaluated(other, table), context.goal.rates)


def _ordered_anew(context: Context, topology: Topology, chosen: Candidate) -> float:
    """The objective of a strategy in an order found for other links; infinite where all links are alike."""
    if chosen.devices is None:
        return float("inf")
    devices = node_order(topology, context.costs, chosen.table, work=ORDER_WORK, start=chosen.devices)
    if devices is None:
        return float("inf")
    return float(_valued(context, topology, context.costs.on_devices(devices), chosen.table)[0])

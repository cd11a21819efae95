"""Strategies whose stages are fitted to each one's memory: the best of them, and a bound on all."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from ..costs.step import TrainingCosts
from ..strategy import RECOMPUTES, Schedule
from ..workload.strategy_table import FIELDS, Ints, StrategyTable, row_codes
from .bounds import node_floors
from .choices import DEFAULT_SCHEDULES
from .fitting import FULL, Fitted, Fitting, Views, Way
from .objectives import Measures
from .search import Candidate, Goal, evaluated
from .space import Nodes, Space
from .uneven_shared import SHARED, SharedSearch

LOOKED_AT = 100_000_000
"""Entries of stage tables made before the search gives up: about ten seconds of work."""
FIXED_WORK = 100_000
"""Entries that take as long as looking at a strategy without making its tables."""
TOGETHER = 32


def fitted(space: Space, nodes: Nodes, views: Views, goal: Goal, best: float) -> Fitted:
    """Strategies with fitted stages that beat the best value found, in every schedule that may be used."""
    found: list[Candidate] = []
    bound = np.inf
    for schedule in space.scope.constraints.schedule or DEFAULT_SCHEDULES:
        plain = _plain(space, schedule)
        if plain is None:
            continue
        search = SharedSearch if schedule in SHARED else _Search
        made = search(plain, nodes, views, goal, ways(space)).run(best)
        found, bound = [*found, *made.candidates], min(bound, made.bound)
        best = min(best, *(each.value for each in made.candidates)) if made.candidates else best
    return Fitted(sorted(found, key=lambda each: each.value), bound)


def ways(space: Space) -> tuple[Way, ...]:
    """How stages may recompute some of their layers: whole, or each useful set of modules, as constraints allow."""
    allowed = space.choices.kept("recompute", RECOMPUTES)
    full = [FULL] if "full" in allowed else []
    code = RECOMPUTES.index("selective")
    some = [(code, bits) for bits in space.choices.module_sets()] if "selective" in allowed else []
    return (*full, *some) or ((0, 0),)


def _plain(space: Space, schedule: Schedule) -> Space | None:
    """The space of the strategies to fit: those of a schedule with nothing recomputed or moved off the device; None
    where constraints leave nothing of it."""
    held, choices = space.scope.constraints, space.choices
    wanted: dict[str, str | int] = {"recompute": "none", "offload_optimizer": "none", "offload_activations": "none"}
    if schedule != "interleaved":
        wanted["vpp"] = 1
    possible = all(choices.kept(name, (value,)) for name, value in wanted.items())
    if not possible or held.vocab_parallel is True:
        return None
    changed = {name: (value,) for name, value in wanted.items()} | {"schedule": (schedule,), "vocab_parallel": False}
    scope = replace(space.scope, constraints=msgspec.structs.replace(held, **changed))
    return Space(space.chain, space.facts, scope)


class _Search:
    """One search: the best value so far, what was found, and what is left unproven.

    Nodes are looked at in the order of what the schedule takes at least; one is done when a lower bound on all cuts of
    its leanest strategy reaches the best value, or when every strategy of it was cut exactly.
    """

    def __init__(
        self,
        space: Space,
        nodes: Nodes,
        views: Views,
        goal: Goal,
        ways: tuple[Way, ...],
    ) -> None:
        self.space, self.nodes, self.costs, self.bounding = space, nodes, views.costs, views.bounding
        self.goal, self.ways = goal, ways
        self.floors = node_floors(space, nodes, views.bounding, interleaved=False)
        self.found: list[Candidate] = []
        self.bound = np.inf
        self.work = 0

    def run(self, best: float) -> Fitted:
        """Look at nodes until the next one's floor reaches the best value, or for as long as is worth while."""
        values = np.where(self.nodes.pp > 1, self.goal.values(self.floors), np.inf)
        order = np.argsort(values, kind="stable")
        for start in range(0, len(order), TOGETHER):
            chosen = order[start : start + TOGETHER]
            chosen = chosen[values[chosen] < best]
            table, origin = self._strategies(chosen)
            for node in chosen.tolist():
                if values[node] >= best or self.work > LOOKED_AT:
                    return self._done(float(values[node]))
                best = self._node(node, table.take(origin == node), best)
            if len(chosen) < TOGETHER:
                break
        return self._done(best)

    def _done(self, floor: float) -> Fitted:
        return Fitted(sorted(self.found, key=lambda each: each.value), min(self.bound, floor))

    def _strategies(self, nodes: Ints) -> tuple[StrategyTable, Ints]:
        """Those of some nodes that differ in more than their layout, the leanest first, and the node of each."""
        table, origin = self.space.leaves(self.nodes, nodes)
        first, _ = row_codes([origin, *(table.column(name) for name in FIELDS if name != "layout")])
        table, origin = table.take(first), origin[first]
        leanest = np.argsort(evaluated(self.costs, table).memory_bytes, kind="stable")
        return table.take(leanest), origin[leanest]

    def _node(self, node: int, table: StrategyTable, best: float) -> float:
        """Cut the strategies of a node, the leanest first; returns the best value since."""
        leaner: list[tuple[Fitting, float]] = []
        for row in range(len(table)):
            fitting = self._fitting(self.bounding, table.take(np.array([row])))
            known = max((least for other, least in leaner if other.leaner_than(fitting)), default=0.0)
            if self._value(node, known) >= best:
                continue
            self.work += fitting.size
            least = max(known, fitting.least_s())
            if self._value(node, least) < best:
                exact = fitting if self.bounding is self.costs else self._fitting(self.costs, fitting.table)
                made, exact_s = exact.best()
                least = exact_s if self.bounding is self.costs else least
                self.bound = min(self.bound, self._value(node, least))
                best = self._seen(made, best)
            leaner.append((fitting, least))
        return best

    def _seen(self, made: StrategyTable | None, best: float) -> float:
        value = np.inf if made is None else float(self.goal.values(evaluated(self.costs, made))[0])
        if made is not None and value < best:
            self.found.append(Candidate(made, self.costs, value))
        return min(value, best)

    def _fitting(self, costs: TrainingCosts, table: StrategyTable) -> Fitting:
        self.work += FIXED_WORK
        return Fitting(costs, table, self.goal.capacity_bytes, self.ways)

    def _value(self, node: int, seconds: float) -> float:
        """The objective at least, of a strategy of a node that takes so long."""
        floor = self.floors.take(np.array([node]))
        return float(self.goal.values(Measures(np.array([seconds]), floor.busy_s, floor.memory_bytes))[0])

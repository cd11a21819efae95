"""Which strategies may have stages fitted to their memory, and how much looking for them may take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from shardwright.solvers import Stop
from shardwright.solvers.solution import Progress

from ..costs.step import TrainingCosts
from ..strategy import RECOMPUTES, Schedule
from ..workload.strategy_table import ALL_LAYERS, FIELDS, StrategyTable, concatenate, row_codes
from .bounds import node_floors
from .fitting import FULL, NONE, Way
from .objectives import Measures
from .paces import least_seconds
from .search import Candidate, Goal, evaluated
from .space import Nodes, Space

TOGETHER = 64
MOST_STRATEGIES = 100_000
"""Strategies bounded before the nodes left are taken by their own bounds."""


@dataclass(slots=True)
class Meter:
    """Work in strategies evaluated, `spent` beyond what was done before, and the rule that ends it."""

    before: int
    stop: Stop | None = None
    spent: int = 0
    most: int = 0
    started: float = field(default_factory=time.perf_counter)

    def allow(self, more: int) -> None:
        """Let the next search take so much."""
        self.most = self.spent + more

    def over(self, value: float, bound: float) -> bool:
        """Whether a search should end, with the best value so far and what is left at least."""
        progress = Progress(value, min(value, bound), self.before + self.spent, self.started)
        return self.spent >= self.most or (self.stop is not None and self.stop(progress))


@dataclass(frozen=True, slots=True)
class Near:
    """Strategies that may beat a value, what no cut of each goes below, and what those not looked at have at least."""

    table: StrategyTable
    floors: Measures
    rest: float


def ways(space: Space) -> tuple[Way, ...]:
    """How stages may recompute some of their layers: whole, or each useful set of modules, as constraints allow."""
    allowed = space.choices.kept("recompute", RECOMPUTES)
    full = [FULL] if "full" in allowed else []
    code = RECOMPUTES.index("selective")
    some = [(code, bits) for bits in space.choices.module_sets()] if "selective" in allowed else []
    return (*full, *some) or (NONE,)


def plain(space: Space, schedule: Schedule, *, alike: bool) -> Space | None:
    """The space of the strategies to fit: those of a schedule with nothing moved off the device and, unless stages are
    to recompute alike, nothing recomputed; None where constraints leave nothing of it."""
    held, choices = space.scope.constraints, space.choices
    wanted: dict[str, str | int] = {"offload_optimizer": "none", "offload_activations": "none"}
    if not alike:
        wanted["recompute"] = "none"
    if schedule != "interleaved":
        wanted["vpp"] = 1
    possible = all(choices.kept(name, (value,)) for name, value in wanted.items())
    if not possible or held.vocab_parallel is True:
        return None
    changed = {name: (value,) for name, value in wanted.items()} | {"schedule": (schedule,), "vocab_parallel": False}
    scope = replace(space.scope, constraints=msgspec.structs.replace(held, **changed))
    return Space(space.chain, space.facts, scope)


def near(space: Space, nodes: Nodes, costs: TrainingCosts, goal: Goal, best: float, *, interleaved: bool) -> Near:
    """Strategies of a space that may beat the best value and differ in more than their layout."""
    of_nodes = node_floors(space, nodes, costs, interleaved=interleaved)
    values = np.where(nodes.pp > 1, goal.values(of_nodes), np.inf)
    order = np.argsort(values, kind="stable")
    order = order[values[order] < best]
    tables, origins = [space.leaves(nodes, order[:0])[0]], [np.zeros(0, np.int64)]
    done = 0
    while done < len(order) and sum(map(len, tables)) < MOST_STRATEGIES:
        table, origin = space.leaves(nodes, order[done : done + TOGETHER])
        tables.append(table)
        origins.append(origin)
        done += TOGETHER
    table, origin = concatenate(tables), np.concatenate(origins)
    whole = np.flatnonzero((table.recompute != FULL[0]) | (table.recompute_layers == ALL_LAYERS))
    table, origin = table.take(whole), origin[whole]
    first, _ = row_codes([origin, *(table.column(name) for name in FIELDS if name != "layout")])
    table, origin = table.take(first), origin[first]
    rest = float(values[order[done]]) if done < len(order) else np.inf
    floors = replace(of_nodes.take(origin), step_s=least_seconds(costs, table))
    may = goal.values(floors) < best
    return Near(table.take(may), floors.take(may), rest)


def better(made: list[StrategyTable], costs: TrainingCosts, goal: Goal, best: float) -> list[Candidate]:
    """Those of some strategies that beat the best value."""
    if not made:
        return []
    values = goal.values(evaluated(costs, concatenate(made))).tolist()
    return [Candidate(table, costs, value) for table, value in zip(made, values, strict=True) if value < best]

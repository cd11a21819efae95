"""Contiguous partition of a chain over owners that hold several pieces each, exact by constraint programming.

The chain is cut into consecutive pieces; what an owner takes and holds are sums over its pieces, which lie apart in the
chain, so that no dynamic program along it can tell. The first units of a piece may be lightened: they take more and
hold less. All pieces of an owner have as many units as each other, or one more, and so have their lightened parts; only
pieces that are free of that may be shorter.

The value is `slowest` × the most expensive owner + `total` × all owners + `rounds` × (the sum of every round's heaviest
piece - the heaviest owner).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .solution import Progress, Solution, Status

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FINEST = 100_000
"""Steps into which the largest cost, load or weight is divided: the bound is that of costs rounded down to them."""
WORK_PER_SECOND = 1_000_000
"""Work counted per unit of the solver's deterministic time."""


@dataclass(frozen=True, slots=True)
class SharedProblem:
    """`parts[unit, kind]` says what the units of the chain are made of.

    Per kind: `cost`, `extra` cost where lightened, bytes held `once`, bytes `kept` and of them `spared` where lightened
    for every one of the pieces' `alive` turns. Per piece: `fixed_cost`, its `least` units, whether it is `free` to be
    shorter than its owner's others, its `round` and a load besides `load` per kind. Per owner: its pieces `owned`
    [owners, each] with their turns `alive`, bytes `fixed`, bytes `working` while anything of it is lightened, `room`,
    `speed` as cost per cost, and its `least_owned` units.
    """

    parts: Ints
    cost: Floats
    extra: Floats
    once: Floats
    kept: Floats
    spared: Floats
    load: Floats
    fixed_cost: Floats
    fixed_load: Floats
    least: Ints
    free: NDArray[np.bool_]
    round: Ints
    owned: Ints
    alive: Floats
    fixed: Floats
    working: float
    room: Floats
    speed: Floats
    least_owned: Ints

    @property
    def units(self) -> int:
        """Units of the chain."""
        return len(self.parts)

    @property
    def pieces(self) -> int:
        """Pieces to cut it into."""
        return len(self.least)


@dataclass(frozen=True, slots=True)
class Weights:
    """What the value is made of; `share` of each owner's cost that counts, as where two owners hold the same pieces."""

    slowest: float
    total: float
    rounds: float
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class SharedPartition:
    """Units of every piece in chain order, and how many of its first are lightened."""

    sizes: Ints
    lightened: Ints


@dataclass(frozen=True, slots=True)
class Effort:
    """Look for values below a `cutoff`, knowing that the most expensive owner is at least `slowest`, with so much work
    and to within a `gap`."""

    cutoff: float = np.inf
    slowest: float = 0.0
    work: int = WORK_PER_SECOND
    gap: float = 1e-4


def filled(problem: SharedProblem, numbers: Ints, shorter: bool) -> SharedPartition | None:
    """A partition in which owner o has `numbers[o]` units, and as few lightened as fit its room; None where that does
    not fit. Larger pieces stand in the last rounds of every owner, which usually have the fewest turns, but not where
    pieces are free to be `shorter`."""
    sizes = np.zeros(problem.pieces, np.int64)
    for pieces, number in zip(problem.owned, numbers.tolist(), strict=True):
        order = sorted(pieces.tolist(), key=lambda piece: (shorter and problem.free[piece], -piece))
        base, more = divmod(number, len(order))
        sizes[order] = base + (np.arange(len(order)) < more)
    if sizes.sum() != problem.units or (sizes < problem.least).any():
        return None
    ends, before = np.cumsum(sizes), _before(problem)
    held = before[ends] - before[ends - sizes]
    lightened = np.zeros_like(sizes)
    for owner, pieces in enumerate(problem.owned):
        alive = problem.alive[owner]
        room = problem.room[owner] - problem.fixed[owner]
        room -= float((held[pieces] * (problem.once + alive[:, None] * problem.kept)).sum())
        spared = before[:, None, :] * (alive[:, None] * problem.spared)
        some = _fewest(spared.sum(axis=2), sizes[pieces], ends[pieces], alive, float(room) - problem.working)
        some = np.zeros_like(pieces) if room >= 0 else some
        if some is None:
            return None
        lightened[pieces] = np.maximum(lightened[pieces], some)
    return SharedPartition(sizes, lightened)


def _before(problem: SharedProblem) -> Ints:
    """Units of every kind before every place of the chain, [units + 1, kinds]."""
    none = np.zeros((1, problem.parts.shape[1]), np.int64)
    return np.concatenate([none, np.cumsum(problem.parts, axis=0)])


def _fewest(spared: Floats, sizes: Ints, ends: Ints, alive: Floats, room: float) -> Ints | None:
    """Units to lighten of an owner's pieces, those of most turns first, so that it fits; None where it does not.

    `spared[place, piece]` is what lightening all units before a place spares.
    """
    turn = np.argsort(np.argsort(-alive, kind="stable"), kind="stable")
    light = np.arange(1, int(sizes.sum()) + 1)[:, None]
    some: Ints = np.minimum(light // len(sizes) + (turn < light % len(sizes)), sizes)
    piece = np.arange(len(sizes))
    freed = (spared[ends - sizes + some, piece] - spared[ends - sizes, piece]).sum(axis=1)
    enough = np.flatnonzero(room + freed >= 0)
    return some[enough[0]] if len(enough) else None


def solve(problem: SharedProblem, weights: Weights, effort: Effort = Effort()) -> Solution[SharedPartition]:
    """The best partition of a value below the cutoff, with a bound; infeasible where there is none.

    The bound of what is infeasible is the cutoff. The same work gives the same answer on every machine.
    """
    from ortools.sat.python import cp_model

    progress = Progress()
    model = _Model(cp_model.CpModel(), problem, weights)
    model.limit(effort)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = effort.work / WORK_PER_SECOND
    solver.parameters.relative_gap_limit = effort.gap
    status = solver.solve(model.model)
    spent = int(solver.response_proto.deterministic_time * WORK_PER_SECOND) + 1
    if status == cp_model.INFEASIBLE:
        reason = "no cut below the cutoff fits"
        return Solution(Status.INFEASIBLE, None, np.nan, effort.cutoff, progress.seconds, spent, reason)
    bound = max(solver.best_objective_bound, 0.0) * model.unit
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solution(Status.LIMIT, None, bound=bound, seconds=progress.seconds, work=spent, reason="stopped")
    point = SharedPartition(model.read(solver, model.sizes), model.read(solver, model.lightened))
    exact = solver.best_objective_bound >= solver.objective_value
    outcome = Status.OPTIMAL if exact else Status.FEASIBLE
    return Solution(outcome, point, solver.objective_value * model.unit, bound, progress.seconds, spent)


class _Model:
    """The program: sizes and lightened units of pieces, and the value in whole units of `unit`."""

    def __init__(self, model: cp_model.CpModel, problem: SharedProblem, weights: Weights) -> None:
        self.model, self.problem = model, problem
        units, count = problem.units, problem.pieces
        self.sizes = [model.new_int_var(int(least), units, "") for least in problem.least]
        self.lightened = [model.new_int_var(0, units if problem.extra.any() else 0, "") for _ in range(count)]
        self.held, self.light = self._kinds()
        self._alike()
        self._room()
        self.finest = float(max((problem.cost + problem.extra).max(), problem.fixed_cost.max(initial=0.0)))
        self.finest *= float(problem.speed.max()) / FINEST
        self.slowest = model.new_int_var(0, 2**40, "")
        self.value, self.unit = self._value(weights)
        model.minimize(self.value)

    def limit(self, effort: Effort) -> None:
        """Leave out what is at or above the cutoff, and say what the most expensive owner is at least: less what costs
        may have lost by rounding."""
        lost = self.problem.units + self.problem.pieces
        self.model.add(self.slowest >= max(int(effort.slowest / self.finest) - 2 * lost, 0))
        if np.isfinite(effort.cutoff):
            self.model.add(self.value <= int(min(effort.cutoff / self.unit, 2**60)))

    def read(self, solver: cp_model.CpSolver, variables: list[Any]) -> Ints:
        """Values of variables."""
        return np.array([solver.value(each) for each in variables], np.int64)

    def _kinds(self) -> tuple[list[list[Any]], list[list[Any]]]:
        """Of every piece, how many of each kind it holds and lightens."""
        model, parts = self.model, self.problem.parts
        prefix = _before(self.problem)
        tables = [None if (column == 1).all() else before for column, before in zip(parts.T, prefix.T, strict=True)]
        ends: list[Any] = [0]
        held, light = [], []
        for size, lightened in zip(self.sizes, self.lightened, strict=True):
            end = model.new_int_var(0, self.problem.units, "")
            middle = model.new_int_var(0, self.problem.units, "")
            model.add(end == ends[-1] + size)
            model.add(middle == ends[-1] + lightened)
            model.add(lightened <= size)
            held.append([size if each is None else self._between(each, ends[-1], end) for each in tables])
            light.append([lightened if each is None else self._between(each, ends[-1], middle) for each in tables])
            ends.append(end)
        model.add(ends[-1] == self.problem.units)
        return held, light

    def _between(self, table: Ints, start: Any, end: Any) -> Any:
        """How many of a kind lie between two places of the chain."""
        return self._looked_up(table, end) - self._looked_up(table, start)

    def _looked_up(self, table: Ints, place: Any) -> Any:
        if isinstance(place, int):
            return int(table[place])
        found = self.model.new_int_var(0, int(table[-1]), "")
        self.model.add_element(place, table.tolist(), found)
        return found

    def _alike(self) -> None:
        """Pieces of an owner differ by at most one unit, and by at most one lightened one, unless they are free."""
        p = self.problem
        for owner, pieces in enumerate(p.owned.tolist()):
            for variables in (self.sizes, self.lightened):
                base = self.model.new_int_var(0, p.units, "")
                for piece in pieces:
                    self.model.add(variables[piece] <= base + 1)
                    if not p.free[piece]:
                        self.model.add(variables[piece] >= base)
            self.model.add(sum(self.sizes[piece] for piece in set(pieces)) >= int(p.least_owned[owner]))

    def _room(self) -> None:
        """What every owner holds fits its room; bytes are rounded up."""
        p = self.problem
        for owner, pieces in enumerate(p.owned.tolist()):
            terms: list[Any] = []
            for piece, alive in zip(pieces, p.alive[owner].tolist(), strict=True):
                terms += _weighted(self.held[piece], np.ceil(p.once + alive * p.kept))
                terms += _weighted(self.light[piece], -np.floor(alive * p.spared))
            if p.working:
                any_light = self.model.new_bool_var("")
                for piece in pieces:
                    self.model.add(self.lightened[piece] == 0).only_enforce_if(~any_light)
                terms.append(int(np.ceil(p.working)) * any_light)
            self.model.add(sum(terms) <= int(np.floor(p.room[owner] - p.fixed[owner])))

    def _value(self, weights: Weights) -> tuple[Any, float]:
        """The value in whole steps of a unit, costs and weights rounded down but for what is subtracted."""
        p = self.problem
        unit, largest = self.finest, max(weights.slowest, weights.total) / FINEST
        costs = [self._cost(owner, pieces, weights.share / unit) for owner, pieces in enumerate(p.owned.tolist())]
        for cost in costs:
            self.model.add(self.slowest >= cost)
        value = int(weights.slowest / largest) * self.slowest + int(weights.total / largest) * sum(costs)
        if weights.rounds:
            step = float(max(p.load.max(), p.fixed_load.max(initial=0.0))) * float(p.speed.max()) / FINEST
            value += int(weights.rounds * step / unit / largest) * self._rounds(step)
        return value, unit * largest

    def _cost(self, owner: int, pieces: list[int], per_unit: float) -> Any:
        p = self.problem
        speed = float(p.speed[owner]) * per_unit
        terms = [int(speed * p.fixed_cost[pieces].sum())]
        for piece in pieces:
            terms += _weighted(self.held[piece], np.floor(speed * p.cost))
            terms += _weighted(self.light[piece], np.floor(speed * p.extra))
        return sum(terms)

    def _rounds(self, step: float) -> Any:
        """The heaviest piece of every round, summed, minus the heaviest owner, in steps of load."""
        p, model = self.problem, self.model
        home = np.empty(p.pieces, np.int64)
        home[p.owned] = np.arange(len(p.owned))[:, None]
        speed = p.speed[home] / step
        heaviest = [model.new_int_var(0, 2**40, "") for _ in range(int(p.round.max()) + 1)]
        for piece in range(p.pieces):
            load = sum(_weighted(self.held[piece], np.floor(speed[piece] * p.load)))
            model.add(heaviest[p.round[piece]] >= load + int(speed[piece] * p.fixed_load[piece]))
        owners = []
        for pieces in p.owned.tolist():
            terms = [int(np.ceil(speed[piece] * p.fixed_load[piece])) for piece in pieces]
            for piece in pieces:
                terms += _weighted(self.held[piece], np.ceil(speed[piece] * p.load))
            owners.append(sum(terms))
        most = model.new_int_var(0, 2**40, "")
        model.add_max_equality(most, owners)
        excess = model.new_int_var(0, 2**40, "")
        model.add(excess >= sum(heaviest) - most)
        return excess


def _weighted(variables: list[Any], weights: Floats) -> list[Any]:
    return [int(weight) * variable for variable, weight in zip(variables, weights.tolist(), strict=True) if weight]

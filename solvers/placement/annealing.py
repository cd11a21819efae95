"""Annealing of a layered placement by exchanges, alternating between even and odd layers, load pressed step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bounds import peak_floors
from .exchanges import Singles, Table, Whole
from .marginal import MarginalCost
from .problem import PlacementProblem
from .slots import Flow, SlotPlacement, copies, follow

NOISE = 1 << 17
MOST_LOOKED_AT = 32
MEETINGS = 8
LEAST = 15_000
REROUTED = 10
SURE = 1e-9
CAP = 3.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how hot to anneal.

    A round visits the even layers, then the odd ones; each visit lets the devices of a layer meet in `meetings` random
    pairings, and a pair that meets may exchange any two slots. Temperatures are in units of the mean cost of moving one
    slot's flow over the longest link, hinge weights in units of the load weight; both move geometrically over the
    rounds. The last `polish` rounds price the layer's peak itself and accept improvements only. A slot away from where
    it started costs `stay` on top.
    """

    rounds: int = 300
    meetings: int = MEETINGS
    hot: float = 0.4
    cold: float = 0.003
    soft: float = 0.001
    hard: float = 4000
    polish: int = 40
    seed: int = 0
    stay: float = 0.0

    @classmethod
    def for_size(cls, layers: int, slots: int, devices: int, work: int, seed: int = 0) -> Schedule:
        """A schedule that looks at about `work` exchanges, a meeting of few devices counted as `LEAST` of them."""
        rounds = int(np.clip(work // (2 * MEETINGS * max(LEAST, looked_at(layers, slots, devices))), 30, 6000))
        return cls(rounds=rounds, seed=seed)

    @property
    def total(self) -> int:
        """Rounds of annealing and polishing together."""
        return self.rounds + self.polish


def looked_at(layers: int, slots: int, devices: int) -> int:
    """Exchanges looked at in one meeting of the devices of half the layers."""
    places = -(-slots // devices)
    return -(-layers // 2) * (devices // 2) * places * min(MOST_LOOKED_AT, places)


@dataclass(frozen=True, slots=True)
class Annealed:
    """Where annealing ended and how many exchanges it looked at."""

    placement: SlotPlacement
    work: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """How an exchange is judged: temperature, weight of squared load above target, weight of the layer's peak."""

    temperature: float
    hinge: float
    peak: float


def anneal(problem: PlacementProblem, start: SlotPlacement, schedule: Schedule) -> Annealed:
    """Improve a placement by exchanges of slots within a layer. The same schedule gives the same answer.

    While all odd layers stand still the even layers do not see each other, so that an exchange's change is exact (and
    the other way round), and so it is for all pairs of devices that meet at once. Each pair draws one of its exchanges,
    or none, as a heat bath would (Geman and Geman, "Stochastic relaxation", 1984). With copies, flow is re-routed to
    the nearest copies ten times along the way.
    """
    run = _Run(problem, start, schedule)
    every = max(1, schedule.rounds // REROUTED)
    for turn in range(schedule.total):
        if run.copied and turn and turn % every == 0:
            run.follow()
        pressure = run.pressure(turn)
        for parity in (0, 1):
            run.visit(parity, pressure)
    return Annealed(SlotPlacement(start.owner, run.table.devices()), run.work)


class _Run:
    """Everything that annealing keeps beside the placement."""

    def __init__(self, problem: PlacementProblem, start: SlotPlacement, schedule: Schedule) -> None:
        self.problem, self.schedule, self.owner, self.work = problem, schedule, start.owner, 0
        self.copied = bool(np.any(copies(start.owner, problem.items) > 1))
        self.rng = np.random.default_rng(schedule.seed)
        self.noise: Singles = self._noise(start)
        self.device = start.device.astype(np.int64)
        self.cost = MarginalCost(problem.link_cost, self.device.copy(), schedule.stay)
        self.table: Table
        self.target: NDArray[np.float32]
        flow = self.follow()
        transitions = max(1, problem.layers - 1)
        self.peak_weight = problem.load_weight * transitions / problem.layers
        if flow.transitions is not None:
            self.peak_weight /= problem.traffic_weight
            moved = float(flow.transitions.sum()) / transitions
            self.scale = moved * float(problem.link_cost.max()) / start.owner.shape[1]
        else:
            unit = float((flow.weights.max(axis=0) * problem.per_fair_share.mean()).mean())
            self.scale = self.peak_weight * unit * unit * 0.1

    def _noise(self, start: SlotPlacement) -> Singles:
        """Gumbel noise, more than twice what one meeting takes from a random place in it."""
        layers, slots = start.owner.shape
        places = min(MOST_LOOKED_AT, int(np.bincount(start.device.ravel()).max()))
        drawn = self.rng.gumbel(size=NOISE).astype(np.float32)
        return np.resize(drawn, max(NOISE, layers * slots * places))

    def follow(self) -> Flow:
        """Take flow and loads from where the slots are now."""
        placement = SlotPlacement(self.owner, self.device)
        flow = follow(self.problem, placement)
        if not self.problem.has_traffic:
            flow = Flow(None, flow.weights)
        self.table = Table(self.problem, placement, flow.weights)
        self.target = peak_floors(self.problem, flow.weights).astype(np.float32)
        self.cost.follow(flow)
        return flow

    def pressure(self, turn: int) -> Pressure:
        """How exchanges are judged in a round."""
        plan = self.schedule
        if turn >= plan.rounds:
            return Pressure(0.0, 0.0, self.peak_weight)
        along = turn / max(1, plan.rounds - 1)
        temperature = self.scale * plan.hot * (plan.cold / plan.hot) ** along
        return Pressure(temperature, self.peak_weight * plan.soft * (plan.hard / plan.soft) ** along, 0.0)

    def visit(self, parity: int, pressure: Pressure) -> None:
        """Let the devices of all layers of a parity meet, neighbours standing still."""
        layers = np.arange(parity, self.problem.layers, 2)
        if not len(layers) or self.problem.devices < 2:
            return
        cost = self.cost.of(parity, self.device).reshape(-1)
        hinge = self._hinge(layers, pressure)
        for _ in range(self.schedule.meetings):
            meeting = _Meeting(self, layers, cost)
            self.work += meeting.looked_at
            meeting.exchange(self, pressure, hinge)
        count = self.table.devices_
        rows = (layers[:, None] * count + np.arange(count)).ravel()
        row, place = np.nonzero(self.table.slot[rows] >= 0)
        row = rows[row]
        self.device[row // count, self.table.slot[row, place]] = row % count

    def _hinge(self, layers: Whole, pressure: Pressure) -> Singles:
        """Weight of squared excess load per layer: as pressed, but where a layer cannot be even not far above what the
        same excess costs as the layer's peak.
        """
        worst = self.table.loads.max(axis=0).reshape(-1, self.problem.devices)[layers].max(axis=1)
        excess = np.maximum(worst - self.target[layers], 1e-6)
        return np.asarray(np.minimum(pressure.hinge, CAP * self.peak_weight / excess), dtype=np.float32)


class _Meeting:
    """One pairing of the devices of some layers: what every exchange of two slots changes, [pairs, i, j].

    `rows[0]` and `rows[1]` are the two devices of every pair as rows of the table. Of devices with many places a random
    block of them is looked at, or all of them in blocks when there is no load that the blocks would share.
    """

    def __init__(self, run: _Run, layers: Whole, cost: Singles) -> None:
        table, devices, slots = run.table, run.problem.devices, run.owner.shape[1]
        self.layers, self.half = layers, devices // 2
        order = run.rng.permutation(devices)[: 2 * self.half].reshape(2, 1, -1)
        self.rows = (layers[:, None] * devices + order).reshape(2, -1)
        at = ((np.arange(len(layers))[:, None] * devices + order) * slots).reshape(2, -1, 1)
        self.places: Whole | None = None
        if table.places > MOST_LOOKED_AT:
            blocks = 1 if run.peak_weight > 0 else table.places // MOST_LOOKED_AT
            kept = run.rng.permuted(np.tile(np.arange(table.places), (2, self.rows.shape[1], 1)), axis=2)
            self.places = kept[:, :, : blocks * MOST_LOOKED_AT].reshape(2, -1, MOST_LOOKED_AT)
            self.rows, at = np.repeat(self.rows, blocks, axis=1), np.repeat(at, blocks, axis=1)
        slot = self._of(table.slot)
        moved = cost.take(at[::-1] + slot) - cost.take(at + slot)
        self.change = moved[0, :, :, None] + moved[1, :, None, :]
        owners = self._of(table.owner) if table.copied or table.ragged else None
        barred = None if owners is None else table.barred(owners[0], owners[1])
        if barred is not None:
            self.change[barred] = np.inf
        self.looked_at = self.change.size

    def _of(self, table: NDArray[Any]) -> NDArray[Any]:
        """The places looked at of the devices that meet, [2, pairs, places]."""
        found: NDArray[Any] = table[self.rows] if self.places is None else table[self.rows[:, :, None], self.places]
        return found

    def exchange(self, run: _Run, pressure: Pressure, hinge: Singles) -> None:
        """Make the exchanges that are drawn."""
        pairs = np.arange(self.rows.shape[1])
        if pressure.temperature > 0:
            change, now = self.change, np.zeros(len(pairs), dtype=np.float32)
            if pressure.hinge > 0:
                change, now = self._pressed(run, hinge)
            change = change.reshape(len(pairs), -1)
            heat = np.float32(pressure.temperature)
            offset = int(run.rng.integers(0, len(run.noise) - change.size))
            change = change - heat * run.noise[offset : offset + change.size].reshape(change.shape)
            best = change.argmin(axis=1)
            now -= heat * run.noise[run.rng.integers(0, len(run.noise), size=len(pairs))]
            go = np.flatnonzero(change[pairs, best] < now)
        else:
            best, go = self._settled(run, np.float32(pressure.peak))
        i, j = np.divmod(best[go], self.change.shape[2])
        if self.places is not None:
            i, j = self.places[0, go, i], self.places[1, go, j]
        run.table.exchange(self.rows[0, go], i, self.rows[1, go], j)

    def _loads_after(self, table: Table, scenario: int) -> Singles:
        """Load of both devices after every exchange, [2, pairs, i, j]."""
        weights = self._of(table.weights[scenario])
        moved = weights[1, :, None, :] - weights[0, :, :, None]
        unit = table.unit[self.rows]
        unit[1] *= -1
        after: Singles = moved * unit[:, :, None, None]
        after += table.loads[scenario][self.rows][:, :, None, None]
        return after

    def _pressed(self, run: _Run, hinge: Singles) -> tuple[Singles, Singles]:
        """The change with the squared loads above target that it leaves, and those there are now, both weighted."""
        table = run.table
        target, weight = np.repeat(run.target[self.layers], self.half), np.repeat(hinge, self.half)
        change, now = self.change, np.zeros(len(target), dtype=np.float32)
        for scenario, loads in enumerate(table.loads):
            after = self._loads_after(table, scenario)
            after -= target[:, None, None]
            np.maximum(after, 0.0, out=after)
            after *= after
            excess = after[0]
            excess += after[1]
            excess *= weight[:, None, None]
            change = change + excess
            now += (np.maximum(loads[self.rows] - target, 0.0) ** 2).sum(axis=0) * weight
        return change, now

    def _settled(self, run: _Run, weight: np.float32) -> tuple[Whole, Whole]:
        """The best exchange of every pair and the pairs that make theirs, so that the layer's cost surely falls.

        In every layer the best exchange with its change of the peak is made, and of the other pairs those that cut
        traffic and stay below the peak that it leaves.
        """
        table, layers, pairs = run.table, len(self.layers), np.arange(self.rows.shape[1])
        change = self.change.reshape(len(pairs), -1)
        sure = -SURE * run.scale
        if weight == 0:
            best = change.argmin(axis=1)
            return best, np.flatnonzero(change[pairs, best] < sure)
        after = self._loads_after(table, 0)
        for scenario in range(1, len(table.loads)):
            np.maximum(after, self._loads_after(table, scenario), out=after)
        fuller = after.max(axis=0).reshape(change.shape)
        peak, others = self._others(table)
        top = np.maximum(fuller, others[:, None])
        judged = change + weight * (top - np.repeat(peak, self.half)[:, None])
        best = judged.argmin(axis=1)
        value = judged[pairs, best].reshape(layers, -1)
        chosen = np.arange(layers) * self.half + value.argmin(axis=1)
        helps = value.min(axis=1) < sure
        left = np.where(helps, top[chosen, best[chosen]], peak)
        below = np.where(fuller <= np.repeat(left, self.half)[:, None], change, np.inf)
        second = below.argmin(axis=1)
        go = below[pairs, second] < sure
        go[chosen], second[chosen] = helps, best[chosen]
        return second, np.flatnonzero(go)

    def _others(self, table: Table) -> tuple[Singles, Singles]:
        """The peak of every layer, and for every pair the fullest of the layer's devices that are not of the pair."""
        worst = table.loads.max(axis=0).reshape(-1, table.devices_)[self.layers]
        full = np.argsort(-worst, axis=1)[:, :3]
        rows = self.rows.reshape(2, len(self.layers), -1) - (self.layers * table.devices_)[:, None]
        others = np.zeros(rows.shape[1:], dtype=np.float32)
        for at in range(full.shape[1] - 1, -1, -1):
            inside = (rows == full[:, at, None]).any(axis=0)
            load = np.take_along_axis(worst, full[:, at, None], axis=1)
            others = np.where(inside, others, load)
        return worst.max(axis=1), others.ravel()

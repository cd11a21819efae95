"""Swap annealing of a layered placement, alternating between even and odd layers, load weight raised step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bounds import peak_floors
from .problem import Floats, Ints, PlacementProblem
from .slots import SlotPlacement, copies, follow, slot_loads

SINGLES = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how hot to anneal.

    A round visits the even layers, then the odd ones, and tries `visits` swaps per slot. Temperatures are in units of
    the mean cost of moving one slot's flow over the longest link, hinge weights in units of the load weight; both move
    geometrically over the rounds. From `peak_from` of the rounds on, the layer's peak itself is priced. The last
    `polish` rounds accept improvements only. A slot away from where it started costs `stay` on top.
    """

    rounds: int = 300
    visits: int = 16
    hot: float = 0.4
    cold: float = 0.003
    soft: float = 0.001
    hard: float = 1000.0
    peak_from: float = 0.9
    polish: int = 40
    seed: int = 0
    stay: float = 0.0

    @classmethod
    def for_size(cls, layers: int, slots: int, work: int, seed: int = 0) -> Schedule:
        """A schedule of about `work` proposed swaps."""
        visits = 16
        rounds = int(np.clip(work // (visits * layers * slots), 30, 6000))
        return cls(rounds=rounds, visits=visits, seed=seed)

    @property
    def total(self) -> int:
        """Rounds of annealing and polishing together."""
        return self.rounds + self.polish


@dataclass(frozen=True, slots=True)
class Annealed:
    """Where annealing ended and how many swaps it proposed."""

    placement: SlotPlacement
    work: int


def anneal(problem: PlacementProblem, start: SlotPlacement, schedule: Schedule) -> Annealed:
    """Improve a placement by swaps of slots within a layer. The same schedule gives the same answer.

    While all odd layers stand still the even layers do not see each other, so the cost of every slot on every device
    is one matrix product per layer, and a swap's change is exact (and the other way round). With copies, flow is
    re-routed to the nearest copies ten times along the way.
    """
    from .swaps import Pressure, Slots, State, sweep

    work = _Work(problem, start, schedule.stay)
    rng = np.random.default_rng(schedule.seed)
    proposals = np.array([schedule.visits * start.owner.shape[1], rng.integers(1, 2**62)], dtype=np.uint64)
    slots = Slots(work.weights, work.target, problem.per_fair_share, start.owner, int(work.guarded))
    state = State(start.device.astype(np.int64), work.loads, work.held)
    reroute = max(1, schedule.rounds // 10)
    for turn in range(schedule.total):
        if work.guarded and work.forward is not None and turn % reroute == 0 and turn:
            work.follow(state.device)
            slots = slots._replace(weights=work.weights)
            state = state._replace(loads=work.loads)
        temperature, hinge, peak = _pressure(schedule, turn, work)
        for parity in (0, 1):
            layers = np.arange(parity, problem.layers, 2)
            cost = work.marginal_cost(state.device, layers)
            sweep(cost, slots, state, Pressure(temperature, hinge, peak), layers, proposals)
    visits = schedule.total * schedule.visits * start.owner.size
    return Annealed(SlotPlacement(start.owner, state.device), visits)


def _pressure(schedule: Schedule, turn: int, work: _Work) -> tuple[float, float, float]:
    if turn >= schedule.rounds:
        return 0.0, 0.0, work.peak_weight
    along = turn / max(1, schedule.rounds - 1)
    temperature = work.scale * schedule.hot * (schedule.cold / schedule.hot) ** along
    hinge = work.peak_weight * schedule.soft * (schedule.hard / schedule.soft) ** along
    return temperature, hinge, work.peak_weight if along > schedule.peak_from else 0.0


class _Work:
    """Arrays that annealing keeps beside the placement, in single precision where only differences matter."""

    def __init__(self, problem: PlacementProblem, start: SlotPlacement, stay: float) -> None:
        self.home = start.device.copy()
        self.stay = np.float32(stay)
        self.problem = problem
        self.owner = start.owner
        self.guarded = bool(np.any(copies(start.owner, problem.items) > 1))
        self.scale: float
        self.link_cost = problem.link_cost.astype(np.float32)
        self.reverse_cost = np.ascontiguousarray(self.link_cost.T)
        self.held = _held(start, problem) if self.guarded else np.zeros((1, 1, 1), dtype=np.int8)
        self.forward: SINGLES | None = None
        self.backward: SINGLES
        self.cost = np.zeros((problem.layers, problem.devices, start.owner.shape[1]), dtype=np.float32)
        self.weights: Floats
        self.loads: Floats
        self.follow(start.device)
        self.target = peak_floors(problem, self.weights)
        transitions = max(1, problem.layers - 1)
        self.peak_weight = problem.load_weight * transitions / problem.layers
        if self.forward is not None:
            self.peak_weight /= problem.traffic_weight
            self.scale = float(self.forward.sum() / transitions * problem.link_cost.max() / start.owner.shape[1])
        else:
            unit = float((self.weights.max(axis=0) * problem.per_fair_share.mean()).mean())
            self.scale = self.peak_weight * unit * unit * 0.1

    def follow(self, device: Ints) -> None:
        """Take flow and loads from where the slots are now."""
        flow = follow(self.problem, SlotPlacement(self.owner, device))
        self.forward = None
        if self.problem.has_traffic and flow.transitions is not None:
            self.forward = flow.transitions
            self.backward = np.ascontiguousarray(flow.transitions.transpose(0, 2, 1))
        self.weights = flow.weights
        self.loads = slot_loads(flow.weights, device, self.problem.devices) * self.problem.per_fair_share

    def marginal_cost(self, device: Ints, layers: Ints) -> SINGLES:
        """Cost of every slot of the given layers on every device, neighbours standing; [layers, devices, slots]."""
        from .swaps import add_side_cost

        if self.stay:
            self.cost[layers] = self.stay
            slots = np.arange(self.home.shape[1])
            self.cost[layers[:, None], self.home[layers], slots] = 0.0
        else:
            self.cost[layers] = 0.0
        if self.forward is not None:
            add_side_cost(self.backward, self.link_cost, device, layers, 1, self.cost)
            add_side_cost(self.forward, self.reverse_cost, device, layers, -1, self.cost)
        return self.cost


def _held(start: SlotPlacement, problem: PlacementProblem) -> NDArray[np.int8]:
    held = np.zeros((problem.layers, problem.items + 1, problem.devices), dtype=np.int8)
    np.add.at(held, (np.arange(problem.layers)[:, None], start.owner, start.device), 1)
    return held

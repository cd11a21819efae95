"""Lower bounds that cost little time: no placement can be cheaper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .levels import Level, levels
from .problem import Floats, Ints, PlacementProblem
from .replication import replicate

SLIVER = 1e-6


@dataclass(frozen=True, slots=True)
class Floor:
    """Least possible traffic and imbalance, each alone, and what they add up to."""

    traffic: float
    imbalance: float
    value: float


def floor(problem: PlacementProblem, spare: int = 0) -> Floor:
    """Bounds for any placement with `spare` extra copies per layer."""
    imbalance = float(load_floors(problem, spare).mean())
    traffic = traffic_floor(problem, spare > 0) if problem.has_traffic else 0.0
    return combine(problem, traffic, imbalance)


def combine(problem: PlacementProblem, traffic: float, imbalance: float) -> Floor:
    """The floor on the weighted value from floors on its parts."""
    return Floor(traffic, imbalance, problem.traffic_weight * traffic + problem.load_weight * imbalance)


def load_floors(problem: PlacementProblem, spare: int) -> Floats:
    """Per layer a floor on the peak: the mean, and the heaviest copy when copies share their item's load evenly.

    Giving every spare slot to the item with the heaviest copies makes the heaviest copy as light as can be. Without
    spares the heaviest item also has the lightest company.
    """
    if spare == 0:
        empty = int(problem.slots.sum()) - problem.items
        return peak_floors(problem, np.pad(problem.loads, ((0, 0), (0, 0), (0, empty))))
    unit = problem.per_fair_share
    floors = np.ones(problem.layers)
    for scenario in problem.loads:
        copies = replicate(scenario[None], spare, problem.devices)
        floors = np.maximum(floors, (scenario / copies).max(axis=1) * unit.min())
    return floors


def peak_floors(problem: PlacementProblem, weights: Floats) -> Floats:
    """Per layer a floor on the peak for given slot weights: the mean, and the heaviest slot with the lightest company.

    With equal devices every slot is filled (perhaps by an empty one), so the device of the heaviest slot also carries
    at least the lightest others that fill it up.
    """
    unit = problem.per_fair_share
    total = weights.sum(axis=2)
    mean = total / (1.0 / unit).sum()
    ordered = np.sort(weights, axis=2)
    heaviest = ordered[:, :, -1]
    if problem.equal_devices:
        heaviest = heaviest + ordered[:, :, : int(problem.slots[0]) - 1].sum(axis=2)
    floors = np.maximum(mean, heaviest * unit.min()).max(axis=0)
    return np.where(total.sum(axis=0) > 0, floors, 1.0)


def traffic_floor(problem: PlacementProblem, copied: bool) -> float:
    """A floor on traffic: for every pair of layers the better of what one item and what whole groups can keep.

    With copies (`copied`) only the first holds, and only from the sending side.
    """
    assert problem.transitions is not None
    nested = [] if copied else levels(problem.link_cost)
    total = 0.0
    for transition in problem.transitions:
        floors = [item_floor(transition, problem, copied)]
        if nested:
            theta = affinity(transition)
            floors.append(sum(level_floor(transition, problem.slots, level, theta) for level in nested))
        total += max(floors)
    return total / max(1, len(problem.transitions))


def item_floor(transition: Floats, problem: PlacementProblem, copied: bool) -> float:
    """Each item's largest flows over the cheapest links there are slots for, summed over senders or receivers."""
    best = []
    for flow, cost in ((transition, problem.link_cost), (transition.T, problem.link_cost.T)):
        largest = -np.sort(-flow, axis=1)
        per_device = np.sort(np.repeat(cost, problem.slots, axis=1), axis=1)[:, : flow.shape[1]]
        best.append(float((largest @ per_device.T).min(axis=1).sum()))
    return best[0] if copied else max(best)


def level_floor(transition: Floats, slots: Ints, level: Level, theta: float) -> float:
    """What must cross between the groups of a level, times the level's step; `theta` is the pair's affinity.

    No item keeps more than its largest flows, as many as a group has slots. And with z the membership of the items of
    both layers in k equal groups less 1/k, Z = zzᵀ is positive semidefinite, has 1 - 1/k on its diagonal and rows
    that sum to zero over each layer, so that flow within groups is at most (1/k + θ (1 - 1/k)) of all. A weighted form
    of Donath and Hoffman, "Lower bounds for the partitioning of graphs" (1973).
    """
    sizes = np.bincount(level.group, slots)
    largest = int(sizes.max())
    mass = float(transition.sum())
    kept = mass
    if largest < len(transition):
        kept = min(kept, float(np.partition(transition, -largest, axis=1)[:, -largest:].sum()))
        kept = min(kept, float(np.partition(transition, -largest, axis=0)[-largest:].sum()))
    if level.groups > 1 and np.all(sizes == sizes[0]) and sizes.sum() == len(transition):
        kept = min(kept, mass / level.groups + (1 - 1 / level.groups) * theta * mass)
    return level.step * (mass - kept)


def affinity(transition: Floats) -> float:
    """The least θ for which θ · diag(total flow) / 2 dominates the flow, on vectors that sum to zero over each layer.

    Rounded up by far more than the arithmetic's error.
    """
    mass = float(transition.sum())
    if mass == 0 or len(transition) < 2:
        return 0.0
    sliver = SLIVER * mass / len(transition)
    sides = [np.linalg.cholesky(_sum_free(np.diag(transition.sum(axis=axis) + sliver))) for axis in (1, 0)]
    flow = np.linalg.solve(sides[1], np.linalg.solve(sides[0], _sum_free(transition)).T)
    return float(np.sqrt(max(0.0, np.linalg.eigvalsh(flow @ flow.T)[-1]))) * (1 + 2 * SLIVER) + 1e-9


def _sum_free(matrix: Floats) -> Floats:
    """The matrix on an orthonormal basis of the vectors that sum to zero (a Householder reflection's last columns)."""
    size = len(matrix)
    axis = np.full(size, 1 / np.sqrt(size))
    axis[0] += 1.0
    axis /= np.linalg.norm(axis)
    left = matrix - 2 * np.outer(axis, axis @ matrix)
    turned = left - 2 * np.outer(left @ axis, axis)
    return np.asarray(turned[1:, 1:], dtype=np.float64)

"""Grouping items that are asked for together: every layer on its own, by the number of groups a request reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..solution import Solution, Status
from .levels import Level, levels
from .problem import Floats, Ints

if TYPE_CHECKING:
    from .fanout_swaps import Sets

MOST_SETS = 6000
STEPS = 60


@dataclass(frozen=True, slots=True)
class FanoutProblem:
    """Minimize the mean cost of reaching a request's items from a home that is every device equally often.

    `requests[t, l, :]` are the distinct items that request t asks of layer l; reaching a group of devices that is not
    home's costs the group's step (see `levels`). `loads[l, e]` is item e's share of the layer's load; its excess over a
    fair share is priced by `load_weight`. Every device holds the same number of items.
    """

    requests: Ints
    loads: Floats
    link_cost: Floats
    load_weight: float = 0.0

    @property
    def nested(self) -> list[Level]:
        """The levels of the links, each step times the chance that home is elsewhere."""
        found = levels(self.link_cost)
        return [Level(level.step * (1 - 1 / level.groups), level.group) for level in found]


def solve(problem: FanoutProblem, start: Ints, work: int, seed: int = 0) -> Solution[Ints]:
    """The best placement found by annealing each layer from `start`, [layers, items], and a bound.

    Of very many distinct requests the most frequent are annealed on; value and bound count all.
    """
    from .fanout_swaps import Groups, anneal_layer

    nested = problem.nested
    groups = Groups(
        np.array([level.group for level in nested]).reshape(len(nested), -1), np.array([v.step for v in nested])
    )
    rng = np.random.default_rng(seed)
    place = start.copy()
    layers, items = place.shape
    devices = len(problem.link_cost)
    proposed = 0
    for layer in range(layers):
        sets = _sets(problem.requests[:, layer], items)
        looked_at = 1 + 2 * sets.members.size // items
        each = max(items, work // (layers * STEPS * looked_at))
        proposed += STEPS * each
        held = np.bincount(place[layer], problem.loads[layer], devices)
        carried: Floats = np.asarray(held * devices, dtype=np.float64)
        scale = float(groups.step.sum()) / max(1, items) if nested else 0.0
        temperatures = np.r_[scale * np.geomspace(0.3, 0.001, STEPS - 4), np.zeros(4)]
        loads = (problem.loads[layer] * devices, carried, problem.load_weight * devices)
        proposals = np.array([each, rng.integers(1, 2**62)], dtype=np.uint64)
        anneal_layer(sets, groups, place[layer], loads, temperatures, proposals)
    value = cost(problem, place)
    bound = min(floor(problem, items // devices), value)
    status = Status.OPTIMAL if value <= bound * (1 + 1e-9) else Status.FEASIBLE
    return Solution(status, place, value, bound, work=proposed)


def cost(problem: FanoutProblem, place: Ints) -> float:
    """Mean cost per request and layer, with the weighted load ratio."""
    layers = np.arange(place.shape[0])[None, :, None]
    where = place[layers, problem.requests]
    total = sum(level.step * _distinct(level.group[where]) for level in problem.nested)
    devices = len(problem.link_cost)
    peaks = [np.bincount(row, load, devices).max() * devices for row, load in zip(place, problem.loads, strict=True)]
    return float(total + problem.load_weight * np.mean(peaks))


def floor(problem: FanoutProblem, each: int) -> float:
    """A bound: k items in groups of m need k/m groups, and no more pairs share a group than each item's dearest m - 1.

    A request that reaches d groups with k items has at least k - d pairs within groups.
    """
    layers, items = problem.loads.shape
    kept = problem.requests.shape[2]
    total = 0.0
    together = [_together(problem.requests[:, layer], items) for layer in range(layers)]
    for level in problem.nested:
        most = each * int(np.bincount(level.group).max())
        fewest = max(1.0, float(-(-kept // most)))
        per_layer = []
        for pairs in together:
            dearest = -np.sort(-pairs, axis=1)[:, : most - 1]
            per_layer.append(max(fewest, kept - 0.5 * float(dearest.sum())))
        total += level.step * float(np.mean(per_layer))
    heaviest = np.maximum(1.0, problem.loads.max(axis=1) * len(problem.link_cost))
    return total + problem.load_weight * float(heaviest.mean())


def _together(requests: Ints, items: int) -> Floats:
    """Share of requests in which two items occur together, [items, items], zero on the diagonal."""
    pairs = np.zeros(items * items)
    for a in range(requests.shape[1]):
        pairs += np.bincount((requests[:, a, None] * items + requests).ravel(), minlength=items * items)
    table = pairs.reshape(items, items) / len(requests)
    np.fill_diagonal(table, 0.0)
    return table


def _sets(requests: Ints, items: int) -> Sets:
    """Distinct requests with their shares, and the requests of every item."""
    from .fanout_swaps import Sets

    rows, counts = np.unique(np.sort(requests, axis=1), axis=0, return_counts=True)
    if len(rows) > MOST_SETS:
        kept = np.sort(np.argsort(-counts, kind="stable")[:MOST_SETS])
        rows, counts = rows[kept], counts[kept]
    flat = rows.ravel()
    order = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[order], np.arange(items + 1))
    return Sets(rows, counts / counts.sum(), first.astype(np.int64), (order // rows.shape[1]).astype(np.int64))


def _distinct(places: Ints) -> float:
    ordered = np.sort(places, axis=2)
    return float((1 + (np.diff(ordered, axis=2) != 0).sum(axis=2)).mean())

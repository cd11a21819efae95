"""From items to slots: copies of items, empty slots, and the flow between copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import Floats, Ints, PlacementProblem, Score, peaks_of


@dataclass(frozen=True, slots=True)
class SlotPlacement:
    """Which item every slot holds, and on which device: `owner[l, s]` (-1 for an empty slot), `device[l, s]`."""

    owner: Ints
    device: Ints

    def holders(self, items: int) -> list[list[list[int]]]:
        """For every layer and item the devices that hold a copy, in ascending order."""
        out: list[list[list[int]]] = []
        for owners, devices in zip(self.owner.tolist(), self.device.tolist(), strict=True):
            row: list[list[int]] = [[] for _ in range(items)]
            for item, device in zip(owners, devices, strict=True):
                if item >= 0:
                    row[item].append(device)
            out.append([sorted(held) for held in row])
        return out


def one_copy_each(problem: PlacementProblem) -> Ints:
    """Owners when every item has one copy: the items in order, then empty slots, [layers, slots]."""
    total = int(problem.slots.sum())
    row = np.r_[np.arange(problem.items), np.full(total - problem.items, -1)]
    return np.tile(row, (problem.layers, 1)).astype(np.int64)


def copies(owner: Ints, items: int) -> Ints:
    """Number of copies of every item, [layers, items]."""
    out = np.zeros((len(owner), items + 1), dtype=np.int64)
    np.add.at(out, (np.arange(len(owner))[:, None], owner), 1)
    return out[:, :items]


def even_weights(problem: PlacementProblem, owner: Ints) -> Floats:
    """Load of every slot when the copies of an item share its load evenly, [scenarios, layers, slots]."""
    counts = copies(owner, problem.items)
    share = problem.loads / np.maximum(counts, 1)
    padded = np.concatenate([share, np.zeros((*share.shape[:2], 1))], axis=2)
    index = np.broadcast_to(owner, (len(share), *owner.shape))
    return np.asarray(np.take_along_axis(padded, index, axis=2), dtype=np.float64)


def slot_loads(weights: Floats, device: Ints, devices: int) -> Floats:
    """Load of every device, [scenarios, layers, devices]."""
    scenarios, layers, _ = weights.shape
    out = np.zeros((scenarios, layers, devices))
    rows = np.arange(layers)[:, None]
    for scenario in range(scenarios):
        np.add.at(out[scenario], (rows, device), weights[scenario])
    return out


def slot_flow(transition: Floats, owner: Ints) -> Floats:
    """The items' flow looked up for every pair of slots of two layers; nothing flows to or from an empty slot."""
    padded = np.pad(transition, ((0, 1), (0, 1)))
    return np.asarray(padded[owner[0]][:, owner[1]], dtype=np.float64)


def nearest_split(problem: PlacementProblem, placement: SlotPlacement, layer: int) -> Floats:
    """How a slot's flow to an item divides over the item's copies in the next layer: evenly over the nearest ones."""
    cost = problem.link_cost[placement.device[layer]][:, placement.device[layer + 1]]
    owner = placement.owner[layer + 1]
    order = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(owner[order]) != 0])
    group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(order)]))
    ordered = cost[:, order]
    nearest = ordered <= np.minimum.reduceat(ordered, starts, axis=1)[:, group] + 1e-12
    split = nearest / np.add.reduceat(nearest, starts, axis=1, dtype=np.float64)[:, group]
    out: Floats = np.empty(cost.shape)
    out[:, order] = split
    return out


@dataclass(frozen=True, slots=True)
class Flow:
    """Flow between slots and load of slots that follow from a placement: every copy sends to the nearest copies."""

    transitions: NDArray[np.float32] | None
    weights: Floats


def follow(problem: PlacementProblem, placement: SlotPlacement) -> Flow:
    """Walk the flow from layer to layer: what arrives at a slot is its load, and leaves it as its item's flow does.

    Without traffic, copies share load evenly. Scenarios are split in the proportion of the first layer's flow.
    """
    even = even_weights(problem, placement.owner)
    if problem.transitions is None:
        return Flow(None, even)
    if placement.owner.shape[1] == problem.items and np.all(placement.owner == np.arange(problem.items)):
        return Flow(problem.transitions.astype(np.float32), even)
    layers, total = placement.owner.shape
    share = copy_share(even[0, 0], placement.owner[0], problem.items)
    flows = np.zeros((layers - 1, total, total), dtype=np.float32)
    weights = np.empty_like(even)
    weights[:, 0] = even[:, 0]
    for layer in range(layers - 1):
        owner = placement.owner[layer : layer + 2]
        flow = share[:, None] * slot_flow(problem.transitions[layer], owner) * nearest_split(problem, placement, layer)
        flows[layer] = flow
        share = copy_share(flow.sum(axis=0), owner[1], problem.items)
        item_loads = np.pad(problem.loads[:, layer + 1], ((0, 0), (0, 1)))
        weights[:, layer + 1] = item_loads[:, owner[1]] * share
    return Flow(flows, weights)


def copy_share(weight: Floats, owner: Ints, items: int) -> Floats:
    """Each slot's part of its item's weight; even among copies when the item has none."""
    total = np.bincount(owner + 1, weight, items + 1)[owner + 1]
    count = np.bincount(owner + 1, minlength=items + 1)[owner + 1]
    share = np.where(total > 0, weight / np.where(total > 0, total, 1.0), 1.0 / count) * (owner >= 0)
    return np.asarray(share, dtype=np.float64)


def followed_score(problem: PlacementProblem, placement: SlotPlacement) -> Score:
    """Cost of a placement when every copy sends to the nearest copies of the next layer, load following the flow."""
    flow = follow(problem, placement)
    peaks = peaks_of(slot_loads(flow.weights, placement.device, problem.devices), problem.per_fair_share)
    traffic = 0.0
    if flow.transitions is not None and len(flow.transitions):
        for layer, part in enumerate(flow.transitions):
            cost = problem.link_cost[placement.device[layer]][:, placement.device[layer + 1]]
            traffic += float((part * cost).sum())
        traffic /= len(flow.transitions)
    value = problem.traffic_weight * traffic + problem.load_weight * float(peaks.mean())
    return Score(value, traffic, peaks)

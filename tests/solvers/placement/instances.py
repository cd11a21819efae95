"""Small placement problems made from a seed."""

from __future__ import annotations

import numpy as np

from shardwright.solvers.placement import PlacementProblem


def nested_links(groups: int, each: int, ratio: float) -> np.ndarray:
    """Devices in equal groups: links inside cost one, links between groups `ratio`."""
    group = np.arange(groups * each) // each
    cost = np.where(group[:, None] == group, 1.0, ratio)
    np.fill_diagonal(cost, 0.0)
    return cost


def flowing(seed: int, layers: int, items: int, link_cost: np.ndarray, **options) -> PlacementProblem:
    """Random flow with a few strong transitions; `slots` defaults to even shares."""
    random = np.random.default_rng(seed)
    flow = random.random((layers - 1, items, items)) ** 4
    flow /= flow.sum(axis=(1, 2), keepdims=True)
    loads = np.concatenate([flow[:1].sum(axis=2), flow.sum(axis=1)])
    slots = np.asarray(options.pop("slots", np.full(len(link_cost), -(-items // len(link_cost)))))
    return PlacementProblem(loads[None], link_cost, slots, flow, **options)


def loaded(seed: int, layers: int, items: int, slots: list[int], scenarios: int = 1, **options) -> PlacementProblem:
    """Skewed loads and no flow; every two devices one apart."""
    random = np.random.default_rng(seed)
    loads = random.exponential(size=(scenarios, layers, items)) ** 1.5 + 0.01
    loads /= loads.sum(axis=2, keepdims=True)
    devices = len(slots)
    return PlacementProblem(loads, 1.0 - np.eye(devices), np.array(slots), load_weight=1.0, **options)

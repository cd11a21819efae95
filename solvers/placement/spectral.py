"""A start from the shape of the flow: items that follow each other are near, groups are cut level by level."""

from __future__ import annotations

import numpy as np

from .levels import levels
from .problem import Floats, Ints, PlacementProblem

STEPS = 24
ROUNDS = 8


def spectral_start(problem: PlacementProblem, seed: int = 0) -> Ints:
    """Device of every item, [layers, items]: spectral coordinates, then balanced k-means from the coarsest level down.

    Needs equal devices and all slots taken. Coordinates are the leading eigenvectors of the flow between neighbouring
    layers, normalized by the items' totals (Ng, Jordan and Weiss, "On spectral clustering", 2001).
    """
    rng = np.random.default_rng(seed)
    points = _coordinates(problem, min(problem.devices, problem.items - 1), rng)
    groups = [level.group for level in levels(problem.link_cost)[:0:-1]] + [np.arange(problem.devices)]
    out = np.zeros((problem.layers, problem.items), dtype=np.int64)
    parents = np.zeros(problem.devices, dtype=np.int64)
    for group in groups:
        following = np.empty_like(out)
        for parent in np.unique(parents):
            children = np.unique(group[parents == parent])
            sizes = np.array([problem.slots[group == child].sum() for child in children])
            members = [np.flatnonzero(row == parent) for row in out]
            for layer, labels in enumerate(_balanced_means(points, members, sizes, rng)):
                following[layer, members[layer]] = children[labels]
        out, parents = following, group
    return out


def _coordinates(problem: PlacementProblem, width: int, rng: np.random.Generator) -> Floats:
    assert problem.transitions is not None
    flow = problem.transitions
    total = np.zeros((problem.layers, problem.items))
    total[:-1] += flow.sum(axis=2)
    total[1:] += flow.sum(axis=1)
    root = 1 / np.sqrt(np.maximum(total, 1e-12 * total.max()))
    scaled = (flow * root[:-1, :, None] * root[1:, None, :]).astype(np.float32)
    points = rng.standard_normal((problem.layers, problem.items, width)).astype(np.float32)
    for _ in range(STEPS):
        following = points * 0.5
        following[:-1] += scaled @ points[1:]
        following[1:] += scaled.transpose(0, 2, 1) @ points[:-1]
        flat, _ = np.linalg.qr(following.reshape(-1, width))
        points = flat.reshape(points.shape)
    return np.asarray(points * root[:, :, None], dtype=np.float64)


def _balanced_means(points: Floats, members: list[Ints], sizes: Ints, rng: np.random.Generator) -> list[Ints]:
    """Labels of the members of every layer, `sizes[c]` of each label per layer, around centres common to all layers."""
    clouds = [points[layer, items] for layer, items in enumerate(members)]
    everything = np.concatenate(clouds)
    norms = np.linalg.norm(everything, axis=1, keepdims=True)
    centres = everything[rng.choice(len(everything), len(sizes), replace=False)]
    clouds = [cloud / np.maximum(np.linalg.norm(cloud, axis=1, keepdims=True), 1e-12) for cloud in clouds]
    everything = everything / np.maximum(norms, 1e-12)
    labels: list[Ints] = []
    for _ in range(ROUNDS):
        labels = [_fill_nearest(cloud, centres, sizes) for cloud in clouds]
        flat = np.concatenate(labels)
        centres = np.array([everything[flat == c].mean(axis=0) for c in range(len(sizes))])
    return labels


def _fill_nearest(cloud: Floats, centres: Floats, sizes: Ints) -> Ints:
    distance = ((cloud[:, None, :] - centres[None]) ** 2).sum(axis=2)
    labels = np.full(len(cloud), -1, dtype=np.int64)
    left = sizes.copy()
    for flat in np.argsort(distance, axis=None, kind="stable").tolist():
        item, centre = divmod(flat, len(sizes))
        if labels[item] < 0 and left[centre]:
            labels[item] = centre
            left[centre] -= 1
    return labels

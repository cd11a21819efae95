"""A start from the shape of the flow: items that follow each other are near, groups are cut level by level."""

from __future__ import annotations

import numpy as np

from .levels import levels
from .problem import Floats, Ints, PlacementProblem

STEPS = 24
APART = 6
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
            members = np.array([np.flatnonzero(row == parent) for row in out])
            labels = _balanced_means(points, members, sizes, rng)
            np.put_along_axis(following, members, children[labels], axis=1)
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
    for step in range(STEPS):
        following = points * 0.5
        following[:-1] += scaled @ points[1:]
        following[1:] += scaled.transpose(0, 2, 1) @ points[:-1]
        points = following
        if step % APART == APART - 1:
            points = np.linalg.qr(points.reshape(-1, width))[0].reshape(points.shape)
    return np.asarray(points * root[:, :, None], dtype=np.float64)


def _balanced_means(points: Floats, members: Ints, sizes: Ints, rng: np.random.Generator) -> Ints:
    """Labels of the members, [layers, members]: `sizes[c]` of each label per layer, centres common to all layers."""
    clouds = np.take_along_axis(points, members[:, :, None], axis=1)
    everything = clouds.reshape(-1, clouds.shape[2])
    centres = everything[rng.choice(len(everything), len(sizes), replace=False)]
    clouds = clouds / np.maximum(np.linalg.norm(clouds, axis=2, keepdims=True), 1e-12)
    labels = np.zeros(members.shape, dtype=np.int64)
    for _ in range(ROUNDS):
        labels = _fill_nearest(clouds @ (-2 * centres.T) + (centres**2).sum(axis=1), sizes)
        chosen = np.eye(len(sizes))[labels.ravel()]
        centres = chosen.T @ clouds.reshape(everything.shape) / chosen.sum(axis=0)[:, None]
    return labels


def _fill_nearest(distance: Floats, sizes: Ints) -> Ints:
    """Labels by distance, [layers, members, centres]: all ask the nearest centre with room, which takes the nearest."""
    layers, count, _ = distance.shape
    labels = np.full((layers, count), -1, dtype=np.int64)
    left = np.tile(sizes, (layers, 1))
    row = np.arange(layers)[:, None]
    while np.any(labels < 0):
        asked = np.where(left[:, None, :] > 0, distance, np.inf)
        wish = asked.argmin(axis=2)
        wish[labels >= 0] = len(sizes)
        near = np.where(labels < 0, asked.min(axis=2), 0.0)
        order = np.lexsort((near, wish), axis=1)
        ordered = np.take_along_axis(wish, order, axis=1)
        first = (ordered[:, :, None] > np.arange(len(sizes) + 1)[None, None, :] - 0.5).argmax(axis=1)
        rank = np.arange(count) - first[row, ordered]
        room = np.pad(left, ((0, 0), (0, 1)))[row, ordered]
        layer, taken = np.nonzero(rank < room)
        label = ordered[layer, taken]
        labels[layer, order[layer, taken]] = label
        np.subtract.at(left, (layer, label), 1)
    return labels

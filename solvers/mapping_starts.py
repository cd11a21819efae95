"""Hierarchical starts: items in the order of their clusters, laid over the grid tile by tile."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

from .mapping_grid import Floats, Ints, MappingProblem


def tiled_starts(problem: MappingProblem) -> Ints:
    """Orders that put clusters of close items on tiles of the grid, one for every distinct way to tile it.

    A tile's sides divide the grid's. Tiles follow each other, and positions within a tile, along the axes in any
    order; so a cluster may hold whole lines of one term, of the other, or a bit of both.
    """
    distance = np.sum([term.cost + term.cost.T for term in problem.terms], axis=0)
    items = clustered(distance)
    traversals = [_traversal(problem.shape, *way) for way in _tilings(problem.shape)]
    positions = np.unique(np.array(traversals), axis=0)
    orders = np.repeat(items[None, :], len(positions), axis=0)
    placed = np.empty_like(positions)
    np.put_along_axis(placed, positions, orders[:, : problem.positions], axis=1)
    orders[:, : problem.positions] = placed
    return orders


def _tilings(shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Tile sides, order of axes within a tile and among tiles; axes of length one keep their place."""
    long = [axis for axis, length in enumerate(shape) if length > 1]
    flat = [axis for axis, length in enumerate(shape) if length == 1]
    sides = product(*([side for side in range(1, length + 1) if length % side == 0] for length in shape))
    orders = [(*flat, *order) for order in permutations(long)]
    return list(product(sides, orders, orders))


def _traversal(shape: tuple[int, ...], sides: tuple[int, ...], within: tuple[int, ...], among: tuple[int, ...]) -> Ints:
    """Positions in the order in which a tiling visits them, the last axis named fastest."""
    split = [part for length, side in zip(shape, sides, strict=True) for part in (length // side, side)]
    grid = np.arange(int(np.prod(shape))).reshape(split)
    return grid.transpose([2 * axis for axis in among] + [2 * axis + 1 for axis in within]).ravel()


def clustered(distance: Floats) -> Ints:
    """Items in the leaf order of their average-linkage clusters, found by nearest-neighbour chains (Murtagh 1983)."""
    distance = distance.astype(np.float64)
    count = len(distance)
    np.fill_diagonal(distance, np.inf)
    size, leaves = np.ones(count), {item: [item] for item in range(count)}
    chain: list[int] = []
    while len(leaves) > 1:
        if not chain:
            chain = [min(leaves)]
        while True:
            last = chain[-1]
            nearest = int(distance[last].argmin())
            if len(chain) > 1 and distance[last, chain[-2]] <= distance[last, nearest]:
                break
            chain.append(nearest)
        one, other = chain.pop(), chain.pop()
        merged = (size[one] * distance[one] + size[other] * distance[other]) / (size[one] + size[other])
        merged[[one, other]] = np.inf
        distance[one], distance[:, one] = merged, merged
        distance[other], distance[:, other] = np.inf, np.inf
        size[one] += size[other]
        leaves[one] += leaves.pop(other)
    return np.array(next(iter(leaves.values())))

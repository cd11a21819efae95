"""Whole items into given rooms, class by class from the largest items to the smallest, by how likely the rest will fit.

Under the tilted distribution of `counting` what the classes to come load is about normal, so the packings that complete
a partial one, which leaves the room ρ, number about in proportion to

    exp( β·ρ  -  ½ (ρ - m)ᵀ (S + D)⁻¹ (ρ - m) ),

m the mean load to come and the room left unused in the end (1/β_j), S the covariance to come and D that of the unused
(1/β_j²). Of all ways to go on from the partial packings kept, those with the highest score are kept (a beam search,
Lowerre 1976). That finds packings which leave a ten-thousandth of the room, where steps that only mend what overflows
end long before: the right place for a large item is known only by what small ones can still make good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .counting import Count
from .problem import CAPACITY_TOLERANCE, Floats, Integers

RARE = 12.0
"""Ways to place a class whose weight is exp(-RARE) of its best are left out."""
TEMPLATES = 1_500
CROWDED = 16
"""Scores are sampled for a threshold where there are so many times more than are kept."""


@dataclass(frozen=True, slots=True)
class Beam:
    """Partial packings kept, and ways looked at to place a class; more of both for some of the smallest classes."""

    width: int
    ways: int
    last_width: int
    last_ways: int
    last: int = 20


NARROW = Beam(2_000, 32, 2_000, 32)
WIDE = Beam(2_000, 32, 20_000, 128)


@dataclass(frozen=True, slots=True)
class _Placed:
    """One class: the ways to place its items, and which partial packing each kept one came from, by which way."""

    cls: int
    ways: Floats
    parent: NDArray[np.intp]
    way: NDArray[np.intp]


def lay(
    load: Floats, room: Floats, items: Integers, counted: Count, beam: Beam, rng: np.random.Generator
) -> Floats | None:
    """Whole items by profile and class that fit in the rooms, or None where none were found.

    `load` is infinite where a class cannot go, and in the units of the count.
    """
    weight = counted.weight
    order = np.argsort(-(weight[:, None] * load).min(0), kind="stable")
    mean = np.cumsum(counted.mean[:, order[::-1]], 1)[:, ::-1]
    spread = np.cumsum(counted.covariance[order[::-1]], 0)[::-1]
    ways = _ways(weight[:, None] * load, items, max(beam.ways, beam.last_ways), rng)
    left, placed = room[None, :], []
    for at, cls in enumerate(order):
        late = at >= len(order) - beam.last
        table = ways[cls][: beam.last_ways if late else beam.ways]
        taken = table * np.where(np.isfinite(load[:, cls]), load[:, cls], 0.0)
        if at + 1 == len(order):
            break
        size, axes = np.linalg.eigh(spread[at + 1] * np.outer(weight, weight) + np.eye(len(weight)))
        bend = weight[:, None] * axes / np.sqrt(np.maximum(size, 1.0))
        score = _scores(left, taken, weight, mean[:, at + 1] + 1 / weight, bend)
        kept = _highest(score, beam.last_width if late else beam.width)
        parent, way = np.divmod(kept, len(table))
        placed.append(_Placed(int(cls), table, parent, way))
        left = left[parent] - taken[way]
    fits = (left[:, None, :] - taken >= -0.5 * CAPACITY_TOLERANCE * room).all(2)
    if not fits.any():
        return None
    row, last = np.unravel_index(int(fits.argmax()), fits.shape)
    packing = np.zeros_like(load)
    packing[:, cls] = table[last]
    for each in reversed(placed):
        packing[:, each.cls] = each.ways[each.way[row]]
        row = each.parent[row]
    return packing


def _scores(left: Floats, taken: Floats, weight: Floats, mean: Floats, bend: Floats) -> Floats:
    """Log of how many packings complete each partial one, [partial, way], but for a constant."""
    before, after = (left - mean) @ bend, taken @ bend
    score = before @ after.T
    score += (left @ weight - 0.5 * np.square(before).sum(1))[:, None]
    score -= taken @ weight + 0.5 * np.square(after).sum(1)
    flat: Floats = score.ravel()
    return flat


def _highest(score: Floats, most: int) -> NDArray[np.intp]:
    """Places of about the highest scores, `most` of them at most."""
    if len(score) <= most:
        return np.arange(len(score))
    places: NDArray[np.intp] | None = None
    if len(score) > CROWDED * most:
        sample = score[:: max(1, len(score) // (4 * most))]
        rank = max(1, len(sample) * 5 * most // (4 * len(score)))
        places = np.flatnonzero(score >= np.partition(sample, len(sample) - rank)[len(sample) - rank])
        score = score[places]
    if len(score) > most:
        best = np.argpartition(score, len(score) - most)[-most:]
        return best if places is None else places[best]
    assert places is not None
    return places


def _ways(exponent: Floats, items: Integers, most: int, rng: np.random.Generator) -> list[Floats]:
    """For every class ways to share out its items, [way, profile], drawn without replacement by their weight.

    Adding Gumbel noise to the logs of weights and taking the largest draws so (Efraimidis and Spirakis 2006). Taking
    the likeliest instead would bias the mean load, which is the load that the ones before made room for.
    """
    profiles, classes = exponent.shape
    order = np.argsort(exponent - rng.gumbel(size=exponent.shape), axis=0, kind="stable")
    found: list[Floats] = [np.zeros((0, profiles))] * classes
    for number in map(int, np.unique(items)):
        own = np.flatnonzero(items == number)
        width = 1
        while width < profiles and math.comb(number + width, width) <= TEMPLATES:
            width += 1
        template = _shares(number, width)
        taken = np.take_along_axis(exponent[:, own], order[:width, own], 0)
        able = np.isfinite(taken)
        rare = template @ np.where(able, taken - taken.min(0), 0.0) + np.where(template @ ~able > 0, np.inf, 0.0)
        best = np.argsort(rare - rng.gumbel(size=rare.shape), axis=0, kind="stable")[:most]
        for at, cls in enumerate(own):
            likely = best[rare[best[:, at], at] <= RARE, at]
            found[cls] = np.zeros((len(likely), profiles))
            found[cls][:, order[:width, cls]] = template[likely]
    return found


def _shares(number: int, width: int) -> Floats:
    """All ways to share out a number of items among some places."""
    rows = np.zeros((1, 0))
    for _ in range(width - 1):
        left = number - rows.sum(1)
        count = (left + 1).astype(int)
        row = np.repeat(np.arange(len(rows)), count)
        value = np.arange(len(row)) - (np.cumsum(count) - count)[row]
        rows = np.column_stack([rows[row], value])
    return np.column_stack([rows, number - rows.sum(1)])

"""How many packings of whole items given rooms have, about, and what such packings look like on average.

Give a packing x the weight exp(-Σ_j β_j load_j(x)), β > 0. The classes are then independent of each other: class i, n_i
items of it, adds Z_i(β), the sum over all ways to share out its items, a complete homogeneous symmetric polynomial of
its profiles' weights. The number of packings into the rooms is about

    exp(F(β)) / sqrt(det(2π F''(β))),    F(β) = Σ_i log Z_i(β) + Σ_j ( β_j room_j - log β_j ),

at the β where F is least (the saddle point; Barvinok and Hartigan 2010): the mean loads leave 1/β_j of each room there,
as much as an exponential slack, and the means and covariances are those of the packings that fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .problem import Floats, Integers

STEPS = 60
DECREASE = 1e-3
"""Newton decrement, squared, at which β is good enough."""
INWARDS = 0.9
FEWEST = 1e-8
UNUSED = 0.3
"""Share of the room left over by the relaxation that packings leave unused, to start from."""
NEVER = 700.0


@dataclass(frozen=True, slots=True)
class Count:
    """Log of the number of packings, what load weighs in each profile (β), and each class's mean load, [profile,
    class], and covariance of loads, [class, profile, profile]."""

    log: float
    weight: Floats
    mean: Floats
    covariance: Floats


def count(load: Floats, room: Floats, items: Integers, spare: float) -> Count | None:
    """About how many packings there are; `load` is infinite where a class cannot go, in units in which every room is
    worth the same, and `spare` is what the relaxation leaves of the rooms. None where β is not found.
    """
    weight = np.full(len(room), len(room) / (UNUSED * spare))
    value, slope, bend = _tilted(load, room, items, weight)
    for _ in range(STEPS):
        step = -np.linalg.solve(bend, slope)
        decrement = -float(slope @ step)
        if decrement < DECREASE:
            break
        towards = step < 0
        size = min(1.0, float((INWARDS * weight[towards] / -step[towards]).min(initial=1.0)))
        while True:
            tried = weight + size * step
            result = _tilted(load, room, items, tried)
            if result[0] <= value - 1e-4 * size * decrement:
                break
            size /= 2
            if size < FEWEST:
                return None
        weight, (value, slope, bend) = tried, result
    else:
        return None
    log = value - 0.5 * float(np.linalg.slogdet(2 * np.pi * bend)[1])
    mean, covariance = np.zeros_like(load), np.zeros((load.shape[1], len(room), len(room)))
    finite = np.where(np.isfinite(load), load, 0.0)
    for number in np.unique(items):
        own = np.flatnonzero(items == number)
        _, means, spread = _shared(weight, load[:, own], int(number))
        mean[:, own] = means * finite[:, own]
        covariance[own] = np.einsum("ji,ki,jki->ijk", finite[:, own], finite[:, own], spread)
    return Count(log, weight, mean, covariance)


def _tilted(load: Floats, room: Floats, items: Integers, weight: Floats) -> tuple[float, Floats, Floats]:
    """F, its gradient and its Hessian."""
    value = float(weight @ room - np.log(weight).sum())
    slope, bend = room - 1.0 / weight, np.diag(weight**-2)
    for number in np.unique(items):
        own = load[:, items == number]
        finite = np.where(np.isfinite(own), own, 0.0)
        log, mean, spread = _shared(weight, own, int(number))
        value += log
        slope = slope - (mean * finite).sum(1)
        bend = bend + np.einsum("ji,ki,jki->jk", finite, finite, spread, optimize=True)
    return value, slope, bend


def _shared(weight: Floats, load: Floats, number: int) -> tuple[float, Floats, Floats]:
    """Of classes of `number` items each: Σ log Z, and means [profile, class] and covariances [profile, profile, class]
    of how many items are where.

    With z_j a profile's weight and h_k the sum over ways to share out k items, E[x_j] = Σ_a z_j^a h_{n-a} / h_n and
    E[x_j x_k] = Σ_s h_{n-s} / h_n Σ_{a+b=s} z_j^a z_k^b.
    """
    exponent = np.where(np.isfinite(load), weight[:, None] * load, np.inf)
    least = exponent.min(0)
    z = np.exp(-np.minimum(exponent - least, NEVER))
    ways = np.zeros((number + 1, load.shape[1]))
    ways[0] = 1.0
    for row in z:
        for at in range(1, number + 1):
            ways[at] += row * ways[at - 1]
    rest = ways[::-1] / ways[number]
    mean, square, power = np.zeros_like(z), np.zeros_like(z), np.ones_like(z)
    pairs, products = np.zeros((len(z), *z.shape)), np.zeros((len(z), *z.shape))
    for at in range(1, number + 1):
        products = z[:, None] * (products + power[None] * (at > 1))
        power = power * z
        mean += power * rest[at]
        square += (2 * at - 1) * power * rest[at]
        pairs += products * rest[at]
    pairs[np.arange(len(z)), np.arange(len(z))] = square
    return float(np.log(ways[number]).sum() - number * least.sum()), mean, pairs - mean[:, None] * mean[None]

"""Whole units near the relaxation's optimum, cheapest first: lattice points in the ellipsoid that the items allow.

Units n hold divisible items iff  Σ_i min_j w_j load_ij <= w · n  at all prices w of the profiles. Near prices w0 the
left side, D(w), bends like a quadratic once it is averaged over prices a little apart, D(w0) + g·(w - w0) - ½ (w - w0)ᵀ
M (w - w0), so that n holds them about iff

    ½ dᵀ M⁺ d <= w0·n - D(w0),    d = n - g scaled to the same worth.

What n costs beyond the relaxation bounds the right side, and the points within are enumerated coordinate by coordinate
(Fincke and Pohst 1985). Rounding one coordinate after the other misses them where many profiles are about as good.
Everything here is a guess: what is found must still be relaxed and packed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .problem import BinPacking, Floats

SAMPLES = 512
CHUNK = 64
REFINEMENTS = 3
FIRST_SPREAD = 0.01
BEAM = 20_000
RADIUS = 2.0
CLOSE = 1.4
"""How far beyond the quadratic's limit a point may lie."""
RIDGE = 1e-7
DEAR = 1e-9


@dataclass(frozen=True, slots=True)
class Valley:
    """The quadratic around the relaxation's prices: units of each offer as coordinates, worth by unit."""

    worth: Floats
    cost: Floats
    need: Floats
    spread: Floats

    def prices(self, units: Floats) -> Floats:
        """Worth of every offer at which rows of units are most likely shown not to hold the items."""
        spare = (units - self.need) @ self.worth
        away = units - self.need - np.outer(spare, self.need) / (self.need @ self.worth)
        priced: Floats = np.maximum(self.worth - away @ self.spread, 0.0)
        return priced

    def excess(self, units: Floats) -> tuple[Floats, Floats]:
        """Worth of the room beyond the items' of every row of units, and how much of it their shape wants."""
        spare = (units - self.need) @ self.worth
        away = units - self.need - np.outer(spare, self.need) / (self.need @ self.worth)
        return spare, 0.5 * np.einsum("ij,jk,ik->i", away, self.spread, away)


def valley(problem: BinPacking, prices: Floats, room: float, rng: np.random.Generator) -> Valley:
    """The quadratic of a separable problem at the prices of its relaxation, averaged over about what `room` wants."""
    offers = problem.capacity.argmax(1)
    capacity = problem.capacity.max(1)
    worth = np.empty_like(problem.cost)
    load = np.empty_like(problem.load)
    worth[offers] = prices * capacity
    load[offers] = np.where(np.isfinite(problem.load), problem.load, 0.0) / capacity[:, None] * problem.items
    able = np.zeros(load.shape, dtype=bool)
    able[offers] = np.isfinite(problem.load)
    priced = np.where(able, worth[:, None] * load, np.inf)
    spread, scale = FIRST_SPREAD, np.maximum(worth, DEAR)
    for _ in range(REFINEMENTS):
        bend, need = _bend(np.where(able, load, np.inf), load, scale, spread, rng)
        curved = 0.5 * float(scale @ (bend * np.eye(len(bend))) @ scale)
        spread = min(float(np.sqrt(room / max(curved, DEAR))), FIRST_SPREAD)
    need = need * float(priced.min(0).sum()) / float(need @ worth)
    along = scale / np.linalg.norm(scale)
    across = np.eye(len(worth)) - np.outer(along, along)
    inverse = np.asarray(np.linalg.pinv(across @ bend @ across, rcond=RIDGE, hermitian=True), dtype=np.float64)
    return Valley(worth, problem.cost, need, inverse)


def _bend(
    blocked: Floats, load: Floats, worth: Floats, spread: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Minus the mean second derivative of the items' worth, and its mean first, at prices a share `spread` apart.

    The second is the mean of the first times the offset (Stein 1981), offsets in pairs of opposite sign.
    """
    offers, classes = load.shape
    bend, need = np.zeros((offers, offers)), np.zeros(offers)
    for _ in range(SAMPLES // CHUNK):
        offset = rng.standard_normal((CHUNK, offers))
        for side in (offset, -offset):
            best = (blocked * (worth * (1 + spread * side))[:, :, None]).argmin(1)
            used = np.zeros((CHUNK, offers))
            np.add.at(used, (np.arange(CHUNK)[:, None], best), load[best, np.arange(classes)])
            bend -= used.T @ (side / (spread * worth))
            need += used.sum(0)
    count = 2 * CHUNK * (SAMPLES // CHUNK)
    return (bend + bend.T) / (2 * count), need / count


def nearby(around: Valley, box: tuple[Floats, Floats], room: float) -> Floats:
    """Whole units within the box that cost at most `room` beyond the relaxation and about hold the items, by cost."""
    worth, need = around.worth, around.need
    dearer = np.maximum(around.cost - worth, 0.0)
    straight = np.eye(len(need)) - np.outer(need, worth) / (worth @ need)
    shape = straight.T @ around.spread @ straight / (2 * room) + np.outer(worth, worth) / (0.5 * room) ** 2
    shape[np.diag_indices_from(shape)] *= 1 + RIDGE
    centre = need * (1 + 0.5 * room / float(worth @ need))
    order = np.argsort(worth, kind="stable")
    try:
        root = np.linalg.cholesky(shape[np.ix_(order, order)]).T
    except np.linalg.LinAlgError:
        return np.zeros((0, len(need)))
    low, high, extra = box[0][order], box[1][order], dearer[order]
    middle = centre[order]
    points, far, spent = np.zeros((1, 0)), np.zeros(1), np.zeros(1)
    for at in range(len(order) - 1, -1, -1):
        shift = points @ root[at, at + 1 :] / root[at, at] - middle[at]
        half = np.sqrt(np.maximum(RADIUS - far, 0.0)) / root[at, at]
        first = np.maximum(np.ceil(-shift - half), low[at])
        count = np.maximum(np.minimum(np.floor(-shift + half), high[at]) - first + 1, 0).astype(int)
        row = np.repeat(np.arange(len(count)), count)
        value = first[row] + np.arange(len(row)) - (np.cumsum(count) - count)[row]
        reached = far[row] + np.square(root[at, at] * (value + shift[row]))
        paid = spent[row] + extra[at] * (value - low[at])
        kept = np.flatnonzero(paid <= room)
        if len(kept) > BEAM:
            kept = kept[np.argpartition(reached[kept], BEAM)[:BEAM]]
        points = np.column_stack([value[kept] - middle[at], points[row[kept]]])
        far, spent = reached[kept], paid[kept]
    units = np.empty_like(points)
    units[:, order] = np.round(points + middle)
    spare, wanted = around.excess(units)
    close = units[(spare >= 0) & (spare <= room) & (wanted <= CLOSE * spare)]
    return close[np.argsort(close @ around.cost, kind="stable")]

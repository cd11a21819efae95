"""The lattice of whole units near the relaxation's optimum: how its shape bends, and a basis in which it is round.

Units n hold divisible items iff  D(w) = Σ_i min_j w_j load_ij <= w·n  at all prices w of the profiles. Near the costs c
the left side bends like a quadratic once it is averaged over prices a little apart, D(c) + g·(w - c) - ½ (w - c)ᵀ M
(w - c), so that units of cost z hold the items about iff

    ½ dᵀ M⁺ d <= z - D(c),    d = n - g (z / c·g)

and a linear function f of such units, f·d, varies by ± sqrt(2 (z - D(c)) fᵀMf). Integer functions that vary little, the
cost itself first, are what to fix one after the other (Lenstra 1983): together they must determine the units, and
reducing them as a lattice basis (Lenstra, Lenstra and Lovász 1982) finds them. All of this is a guess at what is
worth trying; nothing here proves anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import Floats, Integers

SAMPLES = 512
CHUNK = 64
REFINEMENTS = 3
FIRST_SPREAD, MOST_SPREAD = 0.01, 0.3
DEAR = 1e-9
RIDGE, LEAST_BEND = 1e-5, 1e-4
LOVASZ = 0.99
MOST_STEP = 2**40
"""Entries of a basis beyond which sums in floating point are no longer whole numbers for sure."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Integer functions of the units that determine them, the cost in whole steps first.

    `functions` are the others less the share of the cost that makes them vanish on `need`, `shares` these shares and
    `inverse` takes the values of all back to units. `gram` is how much the functions vary together.
    """

    functions: Floats
    shares: Floats
    inverse: Floats
    gram: Floats


def bend(blocked: Floats, worth: Floats, spread: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Minus the mean second derivative of the items' worth, and its mean first, at prices a share `spread` apart.

    `blocked` are the loads, infinite where a class cannot go. The second is the mean of the first times the offset
    (Stein 1981), offsets in pairs of opposite sign.
    """
    offers, classes = blocked.shape
    curve, need = np.zeros((offers, offers)), np.zeros(offers)
    for _ in range(SAMPLES // CHUNK):
        offset = rng.standard_normal((CHUNK, offers))
        for side in (offset, -offset):
            prices = worth * np.maximum(1 + spread * side, DEAR)
            best = (blocked * prices[:, :, None]).argmin(1)
            used = np.zeros((CHUNK, offers))
            np.add.at(used, (np.arange(CHUNK)[:, None], best), blocked[best, np.arange(classes)])
            curve -= used.T @ (side / (spread * worth))
            need += used.sum(0)
    count = 2 * CHUNK * (SAMPLES // CHUNK)
    return (curve + curve.T) / (2 * count), need / count


def basis(
    load: Floats, cost: Floats, whole: Integers, spare: Floats, most: float, rng: np.random.Generator
) -> tuple[Basis, float] | None:
    """A reduced basis for units of a cost at which about one of them holds the items, and what that is beyond D(cost).

    `load` is infinite where a class cannot go, `whole` the cost in steps without a common divisor, and `spare` what a
    unit costs beyond what the relaxation says that it is worth. At `most` it is taken to cost. None where numbers grow
    out of bounds.
    """
    completed = _completed(whole)
    if completed is None:
        return None
    room, spread = most, FIRST_SPREAD
    for _ in range(REFINEMENTS):
        curve, need = bend(load, cost, spread, rng)
        form = _form(curve, need, cost, spare, room)
        room = min(_room(form, whole), most)
        steep = 0.5 * float(cost @ (curve * np.eye(len(cost))) @ cost)
        spread = min(math.sqrt(room / max(steep, DEAR)), MOST_SPREAD)
    rest = _reduced(completed[1:], form)
    rows = np.vstack([whole, rest])
    inverse = np.round(np.linalg.inv(rows))
    if np.abs(rows).max() > MOST_STEP or not np.array_equal(inverse @ rows, np.eye(len(rows))):
        return None
    shares = rest @ need / float(whole @ need)
    functions = rest - np.outer(shares, whole)
    gram = functions @ form @ functions.T
    gram += RIDGE * np.diag(np.diag(gram) + np.diag(gram).max())
    return Basis(functions, shares, inverse, gram), room


def _form(curve: Floats, need: Floats, cost: Floats, spare: Floats, room: float) -> Floats:
    """How much functions of the units vary, zero for the cost; a profile hardly used varies by what it may cost."""
    own = np.maximum(np.diag(curve), LEAST_BEND * max(float(np.diag(curve).max()), DEAR))
    idle = np.where(spare > DEAR, np.minimum(0.5 * room / np.maximum(spare, DEAR) ** 2, own.max()), 0.0)
    away = np.eye(len(cost)) - np.outer(cost, need) / float(cost @ need)
    values, vectors = np.linalg.eigh(away.T @ (curve + np.diag(RIDGE * own + idle)) @ away)
    shape: Floats = away.T @ (vectors * np.maximum(values, RIDGE * own.min())) @ vectors.T @ away
    return shape


def _room(form: Floats, whole: Integers) -> float:
    """What units of one cost may cost beyond D so that their ellipsoid is as large as a cell of their lattice."""
    dimensions = len(whole) - 1
    values = np.sort(np.maximum(np.linalg.eigvalsh(form), 1e-300))[1:]
    cell = math.log(float(np.linalg.norm(whole))) - 0.5 * float(np.log(values).sum())
    ball = 0.5 * dimensions * math.log(math.pi) - math.lgamma(0.5 * dimensions + 1)
    return 0.5 * math.exp(2 * (cell - ball) / dimensions)


def _completed(whole: Integers) -> Integers | None:
    """A matrix of whole numbers with a determinant of one or minus one, the first row given (Euclid)."""
    rows: NDArray[np.object_] = np.eye(len(whole), dtype=object)
    left = [int(value) for value in whole]
    while sum(value > 0 for value in left) > 1:
        least = min((value, at) for at, value in enumerate(left) if value)[1]
        for at, value in enumerate(left):
            if at != least and value:
                left[at] = value % left[least]
                rows[least] += value // left[least] * rows[at]
    first = int(np.argmax(left))
    ordered = np.vstack([rows[first : first + 1], np.delete(rows, first, 0)])
    if left[first] != 1 or np.abs(ordered).max() > MOST_STEP:
        return None
    return ordered.astype(np.int64)


def _reduced(rows: Integers, form: Floats) -> Integers:
    """The same lattice by short rows (Lenstra, Lenstra and Lovász 1982), lengths by a positive semidefinite form."""
    values, vectors = np.linalg.eigh(form)
    rows = rows.copy()
    points = rows @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    at = 1
    while at < len(rows):
        upper: Floats = np.asarray(np.linalg.qr(points[: at + 1].T)[1])
        column = upper[:, at].copy()
        for other in range(at - 1, -1, -1):
            times = round(column[other] / upper[other, other])
            if times:
                rows[at] -= times * rows[other]
                points[at] -= times * points[other]
                column -= times * upper[:, other]
        before = upper[at - 1, at - 1]
        if column[at] ** 2 < LOVASZ * before**2 - column[at - 1] ** 2:
            for table in (rows, points):
                table[[at - 1, at]] = table[[at, at - 1]]
            at = max(at - 1, 1)
        else:
            at += 1
    return rows

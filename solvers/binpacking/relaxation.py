"""The linear relaxation of a packing: divisible items and units, solved by an interior point that knows its shape.

The program is  min c·y  with  Q y >= Σ_i load_i x_i,  Σ_j x_ij = 1,  A y <= b,  l <= y <= u.  Its normal equations
have a diagonal block for the classes, so each Newton step (predictor and corrector, Mehrotra 1992) costs one product of
[profiles × classes] matrices and one small dense solve. For any prices w >= 0 of the profiles and p >= 0 of the limits,

    Σ_i min_j w_j load_ij  -  b·p  +  Σ_v min over [l, u] of (c - Qᵀw + Aᵀp)_v y_v

bounds the program from below (weak duality); that exact number, not the interior point's own, is the bound returned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .problem import BinPacking, Floats
from .simplex import Simplex

ITERATIONS = 80
CENTRING = 0.99
SMALL_CELLS = 20_000
"""Tables up to this size are solved by simplex, which then takes less than one step of the interior point."""
SMALL_CELLS_ONCE = 200
"""The same for a problem that is solved once only: building the simplex takes longer than solving it."""
SIMPLEX_GAP = 1e-6
FORBIDDEN_LOAD = 1e3
"""Load of a forbidden cell inside the interior point, in largest loads of its class: never worth using, still finite.
The bound uses the true infinity."""


@dataclass(frozen=True, slots=True)
class Relaxed:
    """A proven lower bound, the prices that prove it, and the point the interior point ended at.

    `solved` says whether that point satisfies the relaxation; when it does not, only the bound means something.
    `shares` may be left out where they were not asked for.
    """

    bound: float
    prices: Floats
    limit_prices: Floats
    units: Floats
    shares: Floats
    solved: bool


class Relaxation:
    """The relaxation of one problem, solved again and again under other bounds on the units."""

    def __init__(self, problem: BinPacking) -> None:
        self.cost = problem.cost
        self.load = np.ascontiguousarray(problem.load * problem.items)
        self.capacity = problem.capacity
        self.rows = np.vstack([problem.capacity, -problem.limit_matrix])
        self.limit_matrix, self.limit = problem.limit_matrix, problem.limit
        finite = np.where(np.isfinite(self.load), self.load, 0.0)
        largest = np.maximum(finite.max(0), 1e-12)
        self.inner = np.where(np.isfinite(self.load), np.maximum(self.load, 1e-9 * largest), FORBIDDEN_LOAD * largest)
        self.solves = 0
        self.simplex: Simplex | None = None

    def bound(self, prices: Floats, limit_prices: Floats, lower: Floats, upper: Floats) -> float:
        """The Lagrangian bound of given non-negative prices."""
        with np.errstate(invalid="ignore"):
            items = np.where(np.isfinite(self.load), prices[:, None] * self.load, np.inf).min(0).sum()
        reduced = self.cost - self.capacity.T @ prices + self.limit_matrix.T @ limit_prices
        units = np.minimum(reduced * lower, reduced * upper).sum()
        return float(items + units - self.limit @ limit_prices)

    def solve(
        self,
        lower: Floats,
        upper: Floats,
        cut: float = np.inf,
        tolerance: float = 1e-6,
        *,
        shares: bool = False,
        once: bool = False,
    ) -> Relaxed:
        """Solve under finite bounds on the units; stop early once the bound reaches `cut`.

        `shares` asks for them; `once` says that the problem will not be solved again.
        """
        self.solves += 1
        if self.load.size <= (SMALL_CELLS_ONCE if once else SMALL_CELLS):
            found = self._by_simplex(lower, upper, shares)
            if found is not None:
                return found
        with np.errstate(all="ignore"):
            return _InteriorPoint(self, lower, upper).run(cut, tolerance)

    def _by_simplex(self, lower: Floats, upper: Floats, shares: bool) -> Relaxed | None:
        if self.simplex is None:
            self.simplex = Simplex(self.load, self.capacity, self.cost, (self.limit_matrix, self.limit))
        found = self.simplex.solve(lower, upper)
        if found is None:
            return None
        prices, limit_prices, units = found
        bound = self.bound(prices, limit_prices, lower, upper)
        value = float(self.cost @ units)
        if value - bound > SIMPLEX_GAP * max(abs(value), 1e-9):
            return None
        where = self.simplex.shares(self.load.shape) if shares else np.zeros((0, 0))
        return Relaxed(bound, prices, limit_prices, units, where, solved=True)


class _InteriorPoint:
    """State of one solve. Coupling rows are the profiles' capacities, then the limits; r their slack, q their dual."""

    def __init__(self, program: Relaxation, lower: Floats, upper: Floats) -> None:
        self.p, self.lower, self.upper = program, lower, upper
        self.free = upper > lower + 1e-9
        profiles, classes = program.load.shape
        self.profiles = profiles
        span = np.where(self.free, upper - lower, 0.0)
        self.x = np.full((profiles, classes), 1.0 / profiles)
        used = program.inner.sum(1) / profiles
        need = program.capacity.T @ (used / np.maximum(program.capacity.sum(1), 1e-12))
        self.y = np.where(self.free, np.clip(1.1 * need, lower + 0.05 * span, lower + 0.95 * span), lower)
        self.below = np.where(self.free, self.y - lower, 1.0)
        self.above = np.where(self.free, upper - self.y, 1.0)
        right = np.concatenate([used, -program.limit])
        self.r = np.maximum(program.rows @ self.y - right, 0.1 * np.maximum(np.abs(right), 1e-3))
        cheapest = np.where(program.capacity > 0, program.cost / np.maximum(program.capacity, 1e-12), np.inf).min(1)
        scale = float(program.cost.mean()) or 1.0
        price = np.where(np.isfinite(cheapest), np.maximum(cheapest, 0.01 * scale), scale)
        self.q = np.concatenate([price, np.full(len(program.limit), 0.01 * scale)])
        priced = price[:, None] * program.inner
        self.a = 0.9 * priced.min(0)
        self.zx = np.maximum(priced - self.a, 1e-3 * max(float(priced.min(0).mean()), 1e-12))
        self.zr = self.q.copy()
        reduced = program.cost - program.rows.T @ self.q
        margin = 0.1 * np.maximum(program.cost, 0.1 * scale)
        self.zl = np.where(self.free, np.maximum(reduced, 0) + margin, 0.0)
        self.zu = np.where(self.free, np.maximum(-reduced, 0) + margin, 0.0)
        self.pairs = profiles * classes + len(self.q) + 2 * int(self.free.sum())

    def run(self, cut: float, tolerance: float) -> Relaxed:
        """Newton steps until the gap, the cut or the iteration limit."""
        p, best, best_q, solved = self.p, -np.inf, self.q, False
        for _ in range(ITERATIONS):
            q = np.maximum(self.q, 0.0)
            bound = p.bound(q[: self.profiles], q[self.profiles :], self.lower, self.upper)
            if bound > best:
                best, best_q = bound, q
            if best >= cut:
                break
            self._residuals()
            value = float(p.cost @ self.y)
            error = max(np.abs(self.short).max(), (np.abs(self.uncovered) / (1 + np.abs(self.r))).max())
            if error < 1e-6 and value - best <= tolerance * abs(value) + 1e-12:
                solved = True
                break
            if not self._advance():
                break
        return Relaxed(best, best_q[: self.profiles], best_q[self.profiles :], self.y, self.x, solved)

    def _residuals(self) -> None:
        p = self.p
        self.short = 1.0 - self.x.sum(0)
        used = np.concatenate([np.einsum("ji,ji->j", p.inner, self.x), -p.limit])
        self.uncovered = used - p.rows @ self.y + self.r
        self.dual_x = p.inner * self.q[: self.profiles, None] - self.a - self.zx
        self.dual_r = self.q - self.zr
        self.dual_y = np.where(self.free, p.cost - p.rows.T @ self.q - self.zl + self.zu, 0.0)

    def _advance(self) -> bool:
        """One predictor-corrector step; False when the normal equations break down."""
        p, n = self.p, self.profiles
        self.theta_x = self.x / self.zx
        self.theta_r = self.r / self.zr
        curvature = self.zl / self.below + self.zu / self.above
        self.theta_y = np.where(self.free, 1.0 / np.maximum(curvature, 1e-200), 0.0)
        self.weighted = self.theta_x * p.inner
        self.per_class = self.theta_x.sum(0)
        normal = (p.rows * self.theta_y) @ p.rows.T
        normal[:n, :n] -= (self.weighted / self.per_class) @ self.weighted.T
        diagonal = np.arange(len(normal))
        normal[diagonal, diagonal] += self.theta_r
        normal[diagonal[:n], diagonal[:n]] += np.einsum("ji,ji->j", self.weighted, p.inner)
        normal[diagonal, diagonal] *= 1 + 1e-12
        try:
            self.inverse = np.linalg.inv(normal)
        except np.linalg.LinAlgError:
            return False
        mu = self._complementarity(0.0, 0.0, None) / self.pairs
        first = self._direction(0.0, None)
        primal, dual = self._lengths(first)
        centred = (self._complementarity(primal, dual, first) / self.pairs / mu) ** 3 * mu
        step = self._direction(centred, first)
        primal, dual = (min(1.0, CENTRING * length) for length in self._lengths(step))
        if not (np.isfinite(step[0]).all() and np.isfinite(primal) and np.isfinite(dual)):
            return False
        self._move(step, primal, dual)
        return primal > 1e-10 or dual > 1e-10

    def _direction(self, mu: float, first: tuple[Floats, ...] | None) -> tuple[Floats, ...]:
        """Newton direction (dq, da, dx, dzx, dr, dzr, dy, dzl, dzu) towards complementarity `mu`."""
        p, n, free = self.p, self.profiles, self.free
        cx, cr = mu - self.x * self.zx, mu - self.r * self.zr
        cl, cu = np.where(free, mu - self.below * self.zl, 0.0), np.where(free, mu - self.above * self.zu, 0.0)
        if first is not None:
            _, _, dx, dzx, dr, dzr, dy, dzl, dzu = first
            cx, cr, cl, cu = cx - dx * dzx, cr - dr * dzr, cl - dy * dzl, cu + dy * dzu
        gx = cx / self.zx - self.theta_x * self.dual_x
        gr = cr / self.zr - self.theta_r * self.dual_r
        gy = self.theta_y * (cl / self.below - cu / self.above - self.dual_y)
        short = self.short - gx.sum(0)
        cover = self.uncovered - p.rows @ gy + gr
        cover[:n] += np.einsum("ji,ji->j", p.inner, gx)
        cover[:n] += self.weighted @ (short / self.per_class)
        dq = self.inverse @ cover
        da = (short + dq[:n] @ self.weighted) / self.per_class
        tilt = p.inner * dq[:n, None] - da
        dx, dzx = gx - self.theta_x * tilt, self.dual_x + tilt
        dr, dzr = gr - self.theta_r * dq, self.dual_r + dq
        dy = gy + self.theta_y * (p.rows.T @ dq)
        dzl = np.where(free, (cl - self.zl * dy) / self.below, 0.0)
        dzu = np.where(free, (cu + self.zu * dy) / self.above, 0.0)
        return dq, da, dx, dzx, dr, dzr, dy, dzl, dzu

    def _lengths(self, step: tuple[Floats, ...]) -> tuple[float, float]:
        _, _, dx, dzx, dr, dzr, dy, dzl, dzu = step
        zl, zu = np.where(self.free, self.zl, 1.0), np.where(self.free, self.zu, 1.0)
        primal = max((-dx / self.x).max(), (-dr / self.r).max(), (-dy / self.below).max(), (dy / self.above).max())
        dual = max((-dzx / self.zx).max(), (-dzr / self.zr).max(), (-dzl / zl).max(), (-dzu / zu).max())
        return 1.0 / max(primal, 1.0), 1.0 / max(dual, 1.0)

    def _complementarity(self, primal: float, dual: float, step: tuple[Floats, ...] | None) -> float:
        if step is None:
            ends = (self.below * self.zl + self.above * self.zu) * self.free
            return float(np.vdot(self.x, self.zx) + self.r @ self.zr + ends.sum())
        _, _, dx, dzx, dr, dzr, dy, dzl, dzu = step
        ends = (self.below + primal * dy) * (self.zl + dual * dzl) + (self.above - primal * dy) * (self.zu + dual * dzu)
        inner = np.vdot(self.x + primal * dx, self.zx + dual * dzx) + (self.r + primal * dr) @ (self.zr + dual * dzr)
        return float(inner + (ends * self.free).sum())

    def _move(self, step: tuple[Floats, ...], primal: float, dual: float) -> None:
        dq, da, dx, dzx, dr, dzr, dy, dzl, dzu = step
        self.x += primal * dx
        self.r += primal * dr
        self.y = self.y + primal * dy
        self.below = self.below + np.where(self.free, primal * dy, 0.0)
        self.above = self.above - np.where(self.free, primal * dy, 0.0)
        self.q = self.q + dual * dq
        self.a += dual * da
        self.zx += dual * dzx
        self.zr += dual * dzr
        self.zl = self.zl + dual * dzl
        self.zu = self.zu + dual * dzu

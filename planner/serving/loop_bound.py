"""What no deployment brings in a closed loop: more requests per second with so many in hand."""

from __future__ import annotations

import numpy as np

from ..costs.serving.formulas import Array
from .problem import Problem
from .steady import lone_prefill_seconds
from .workers import bound_grid, hull_below, most_prefill_rate, rates_between

POINTS = 800


def throughput_bound(problem: Problem, users: int) -> float:
    """More requests per second than any mix of workers brings with that many requests in hand.

    A worker w that decodes n requests yields r = n / ((osl − 1) · step_w(n)) while it decodes; every request also
    takes at least q device-seconds of prefill and t seconds in it. So rates are bounded by the linear program
    max Σ a r with Σ a d + q Σ a r ≤ devices and Σ a n + t Σ a r ≤ users, and that by its dual: for every price μ of a
    request in hand, λ(μ) · devices + μ · users with λ(μ) = max (r (1 − μ t) − μ n) / (d + q r).

    Of the requests a share p must keep the TPOT target, for which λ' is over steps within it; the others may decode in
    any batch. As every request of the first kind takes at least (1 − μ h) / λ' devices and h in hand, those of the
    second at least (1 − μ h) / λ, the rate is at most (devices + μ users / λ') / (p / λ' + (1 − p) / λ).
    """
    lengths, targets = problem.setting.lengths, problem.job.targets
    every, good = _decoding_points(problem, users)
    if not good[0].size:
        return 0.0
    q = min(worker.devices / most_prefill_rate(worker, lengths) for worker in problem.types)
    t = min(
        lone_prefill_seconds(worker.cost, worker.schedule, lengths) * (1 + worker.cost.fill) for worker in problem.types
    )
    prices = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 160) * float((good[0] / good[1]).max())])
    within, beyond = (_per_device(points, prices, q, t) for points in (good, every))
    share = targets.percentile / 100 if targets.tpot_s is not None else 1.0
    taken = share / within + (1 - share) / beyond
    return float(((sum(problem.supply) + prices * users / within) / taken).min())


def _decoding_points(problem: Problem, users: int) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """Rate, requests in hand and devices of every worker at every batch: of all of them, and within the TPOT target.

    Requests that see steps on both sides of the target, at it on average, are one more point of their worker.
    """
    limit = problem.job.targets.limits().get("tpot", np.inf)
    tokens = max(problem.setting.lengths.osl - 1, 1e-3)
    context = problem.setting.lengths.context
    every: list[Array] = []
    good: list[Array] = []
    for part, rows in problem.stack.blocks(POINTS):
        grid = bound_grid(rows, users, POINTS)
        step = rows.cost.decode_seconds(grid, context) / rows.cost.tokens_per_step
        rates = rates_between(grid, step * tokens)
        devices = np.array([float(worker.devices) for worker in problem.types[part]])
        every.append(np.stack([rates, grid, np.broadcast_to(devices[:, None], grid.shape)]).reshape(3, -1))
        good.append(every[-1][:, (step <= limit).ravel()])
        for row in np.flatnonzero((step[:, 0] <= limit) & (step[:, -1] > limit)).tolist():
            rate = 1 / hull_below(step[row], 1 / rates[row], limit)
            good.append(np.array([[rate], [rate * limit * tokens], [devices[row]]]))
    return undominated(*np.concatenate(every, axis=1)), undominated(*np.concatenate(good, axis=1))


def _per_device(points: tuple[Array, Array, Array], prices: Array, q: float, t: float) -> Array:
    """λ at every price; anything above it serves as well where it is not positive."""
    r, n, d = points
    price = prices[:, None]
    best: Array = ((r * (1 - price * t) - price * n) / (d + q * r)).max(axis=1)
    return np.maximum(best, 1e-9)


def undominated(rates: Array, hands: Array, devices: Array) -> tuple[Array, Array, Array]:
    """The points that no other on as many devices beats in rate with as few requests in hand: λ(μ) is reached there."""
    kept = []
    for size in np.unique(devices):
        within = np.flatnonzero(devices == size)
        within = within[np.lexsort((-rates[within], hands[within]))]
        best = np.maximum.accumulate(rates[within])
        kept.append(within[np.append(True, best[1:] > best[:-1])])
    chosen = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
    return rates[chosen], hands[chosen], devices[chosen]

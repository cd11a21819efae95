"""Robust fitting of a few bounded coefficients to positive measurements: damped Gauss-Newton on relative errors.

Minimized is Σ w · huber(log(predicted / measured)) + ½ · strength · Σ ((x - prior) / spread)², where x is the
coefficient in the coordinate that suits it: its logarithm, or the log-odds of a share. The prior keeps what the data
do not determine where physics puts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Predict = Callable[[Sequence[float], "int | None", "Floats | None"], Floats]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One coefficient: its expected value, how far from it is surprising (in its coordinate), and its limits.

    A `share` lies between 0 and 1 and is fitted as log-odds, anything else as a logarithm.
    """

    name: str
    prior: float
    spread: float
    low: float = 1e-12
    high: float = math.inf
    share: bool = False

    def inward(self, value: float) -> float:
        """The coordinate of a value."""
        value = min(max(value, self.low), self.high)
        if self.share:
            value = min(max(value, 1e-3), 1 - 1e-3)
            return math.log(value / (1 - value))
        return math.log(value)

    def outward(self, coordinate: float) -> float:
        """The value at a coordinate, within the limits."""
        value = 1 / (1 + math.exp(-coordinate)) if self.share else math.exp(coordinate)
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Settings:
    """`width` is the error beyond which a measurement pulls with constant force; `strength` weighs the priors."""

    iterations: int = 30
    width: float = 0.06
    strength: float = 0.1
    step: float = 0.03
    least_gain: float = 0.01


@dataclass(frozen=True, slots=True)
class Fitted:
    """Coefficients, predictions at them, and the value reached."""

    values: list[float]
    predicted: Floats
    cost: float


def fit(
    parameters: Sequence[Parameter],
    start: Sequence[float],
    measured: Floats,
    weights: Floats,
    predict: Predict,
    settings: Settings,
) -> Fitted:
    """The coefficients that explain the measurements best.

    `predict(values, only, previous)` gives all predictions; with `only` the index of the one coefficient that differs
    from those of `previous`, so that what it does not touch need not be computed again.
    """
    target = np.log(measured)
    expected = np.array([p.inward(p.prior) for p in parameters])
    penalty = settings.strength / np.array([p.spread for p in parameters]) ** 2
    x = np.array([p.inward(value) for p, value in zip(parameters, start, strict=True)])

    def values_at(point: Floats) -> list[float]:
        return [p.outward(float(c)) for p, c in zip(parameters, point, strict=True)]

    def cost_of(residual: Floats, point: Floats) -> float:
        size = np.abs(residual)
        bent = np.where(size < settings.width, size**2 / (2 * settings.width), size - settings.width / 2)
        return float((weights * bent).sum() + (penalty * (point - expected) ** 2).sum() / 2)

    predicted = predict(values_at(x), None, None)
    residual = np.log(predicted) - target
    cost, damping = cost_of(residual, x), 0.3
    for _ in range(settings.iterations):
        found = slopes(x, predicted, values_at, predict, settings.step)
        pull = weights / np.maximum(np.abs(residual), settings.width)
        gradient = found.T @ (pull * residual) + penalty * (x - expected)
        curvature = (found * pull[:, None]).T @ found + np.diag(penalty)
        before = cost
        for _ in range(7):
            system = curvature + damping * np.diag(0.1 * np.diag(curvature) + 0.05)
            trial = x - np.clip(np.linalg.solve(system, gradient), -0.7, 0.7)
            values = values_at(trial)
            guess = predict(values, None, None)
            error = np.log(guess) - target
            reached = cost_of(error, trial)
            if reached < cost:
                x = np.array([p.inward(value) for p, value in zip(parameters, values, strict=True)])
                predicted, residual, cost, damping = guess, error, reached, max(damping / 4, 1e-3)
                break
            damping *= 5
        if before - cost < settings.least_gain:
            break
    return Fitted(values_at(x), predicted, cost)


def slopes(
    x: Floats, predicted: Floats, values_at: Callable[[Floats], list[float]], predict: Predict, step: float
) -> Floats:
    """Slopes of log predictions over every coordinate, from both sides: where one of two times is the longer, as in
    what a host and a device take, one side alone may lead a fit nowhere."""
    result = np.zeros((len(predicted), len(x)))
    for i in range(len(x)):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        rise = np.log(predict(values_at(above), i, predicted)) - np.log(predict(values_at(below), i, predicted))
        result[:, i] = rise / (2 * step)
    return result

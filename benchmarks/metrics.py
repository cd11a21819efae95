"""How good predictions are: relative errors, rank agreement, and what choosing by prediction costs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors predicted / measured - 1, as fractions: of their absolute values the median, mean and 90th
    percentile, and their own mean (`bias`, above 0 when predictions are too high)."""

    count: int
    median_ape: float
    mean_ape: float
    p90_ape: float
    bias: float


def errors(predicted: ArrayLike, measured: ArrayLike) -> Errors | None:
    """Errors of pairs of positive numbers; None when there are none."""
    relative = np.asarray(predicted, float) / np.asarray(measured, float) - 1
    if relative.size == 0:
        return None
    size = np.abs(relative)
    return Errors(
        count=int(relative.size),
        median_ape=float(np.median(size)),
        mean_ape=float(size.mean()),
        p90_ape=float(np.quantile(size, 0.9)),
        bias=float(relative.mean()),
    )


def kendall_tau(first: ArrayLike, second: ArrayLike) -> float | None:
    """Kendall's τ-b, which discounts ties on either side (Kendall 1945); None when one side is all ties."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    upper = np.triu_indices(a.size, 1)
    da = np.sign(a[upper[0]] - a[upper[1]])
    db = np.sign(b[upper[0]] - b[upper[1]])
    scale = float(np.sqrt(np.count_nonzero(da) * np.count_nonzero(db)))
    return float((da * db).sum()) / scale if scale else None


def regret(predicted: ArrayLike, measured: ArrayLike) -> float:
    """How much longer the choice predicted to be fastest really takes than the one that is: a fraction, 0 at best.

    Choices predicted to be equally fast count by their mean.
    """
    p, m = np.asarray(predicted, float), np.asarray(measured, float)
    chosen: NDArray[np.bool_] = p <= p.min() * (1 + 1e-12)
    return float(m[chosen].mean() / m.min() - 1)


@dataclass(frozen=True, slots=True)
class Trial:
    """One measured choice among those of its group; equal choices of a group are repeated measurements."""

    group: Hashable
    choice: Hashable
    predicted: float
    measured: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Means over groups: of τ-b over those of at least three different choices (of two it is only right or wrong), of
    regret over those of at least two."""

    groups: int
    choices: int
    kendall_tau: float | None
    regret: float | None


def ranking(trials: Iterable[Trial]) -> Ranking:
    """Rank agreement inside every group; repeated measurements of one choice count once, by their median."""
    groups: dict[Hashable, dict[Hashable, list[Trial]]] = {}
    for trial in trials:
        groups.setdefault(trial.group, {}).setdefault(trial.choice, []).append(trial)
    taus: list[float] = []
    regrets: list[float] = []
    choices = 0
    for group in groups.values():
        if len(group) < 2:
            continue
        predicted = [_median([t.predicted for t in repeats]) for repeats in group.values()]
        measured = [_median([t.measured for t in repeats]) for repeats in group.values()]
        choices += len(group)
        regrets.append(regret(predicted, measured))
        tau = kendall_tau(predicted, measured) if len(group) > 2 else None
        if tau is not None:
            taus.append(tau)
    return Ranking(
        groups=len(regrets),
        choices=choices,
        kendall_tau=sum(taus) / len(taus) if taus else None,
        regret=sum(regrets) / len(regrets) if regrets else None,
    )


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))

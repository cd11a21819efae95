"""How far regret and rank agreement can be trusted that hang on few choices.

    python -m benchmarks.regret FILE.csv [--where COLUMN=TEXT ...] [--samples N] [--seed N]

For every group of at least three choices, as `benchmarks.accuracy training` makes them: the regret of the choice
predicted to be fastest; the mean and the 5th to 95th percentile of it over random halves of the choices; and the same
over groups in which every choice takes what is predicted for it times one of the table's own errors, drawn among the
rows of its tp. The last is what a model without bias would come to if all errors were noise of the measurements:
a regret within it cannot be told from none. Of rank agreement: Kendall's τ, τ of the pairs measured further apart than
`--apart`, and how far repeats of one choice lie apart at most.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy_training import matching
from benchmarks.measurements.cells import TableError, unreadable
from benchmarks.measurements.others import runs_in
from benchmarks.measurements.runs import Run
from benchmarks.metrics import kendall_tau, regret
from benchmarks.prediction import predict

Floats = NDArray[np.float64]
FEWEST_OF_A_TP = 5


@dataclass(frozen=True, slots=True)
class Group:
    """The choices of one group: seconds predicted and measured (the median of repeats), tp of each, and the largest
    ratio of two repeats less one."""

    name: str
    predicted: Floats
    measured: Floats
    tp: NDArray[np.int64]
    spread: float


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Groups of at least three choices that the cost model predicts."""
    seconds = predict(runs).step_s
    found: dict[tuple[object, ...], dict[object, list[int]]] = {}
    for i, run in enumerate(runs):
        if np.isfinite(seconds[i]) and run.measured_s:
            found.setdefault(run.group, {}).setdefault(run.strategy, []).append(i)
    result = []
    for choices in found.values():
        if len(choices) < 3:
            continue
        times = [np.array([runs[i].measured_s for i in repeats], float) for repeats in choices.values()]
        first = runs[next(iter(choices.values()))[0]]
        result.append(
            Group(
                name=f"{first.model.name}, {first.cluster.nodes * first.cluster.devices} devices",
                predicted=np.array([np.median(seconds[repeats]) for repeats in choices.values()]),
                measured=np.array([np.median(each) for each in times]),
                tp=np.array([runs[repeats[0]].strategy.tp for repeats in choices.values()]),
                spread=max(float(each.max() / each.min()) - 1 for each in times),
            )
        )
    return result


def of_halves(group: Group, samples: int, random: np.random.Generator) -> Floats:
    """Regret within random halves of the choices."""
    count = len(group.measured)
    halves = [random.permutation(count)[: (count + 1) // 2] for _ in range(samples)]
    return np.array([regret(group.predicted[half], group.measured[half]) for half in halves])


def of_noise(groups: Sequence[Group], samples: int, random: np.random.Generator) -> list[Floats]:
    """Regret of every group where its predictions, times errors drawn among those of the same tp less their mean, are
    what is measured; a tp of few rows draws among all."""
    errors = np.concatenate([np.log(each.measured / each.predicted) for each in groups])
    tp = np.concatenate([each.tp for each in groups])
    result = []
    for group in groups:
        pools = [errors[tp == each] if np.sum(tp == each) >= FEWEST_OF_A_TP else errors for each in group.tp]
        drawn = np.stack([random.choice(pool - pool.mean(), samples) for pool in pools], axis=1)
        measured = group.predicted * np.exp(drawn)
        result.append(np.array([regret(group.predicted, each) for each in measured]))
    return result


def tau_apart(group: Group, apart: float) -> float | None:
    """τ of the pairs whose measurements differ by more than a fraction; None where there are none."""
    first, second = np.triu_indices(len(group.measured), 1)
    far = np.abs(np.log(group.measured[first] / group.measured[second])) > np.log1p(apart)
    signs = np.sign(group.predicted[first] - group.predicted[second]) * np.sign(
        group.measured[first] - group.measured[second]
    )
    return float(signs[far].mean()) if far.any() else None


def table(groups: Sequence[Group], samples: int, seed: int, apart: float) -> str:
    """The report as a markdown table, with a line of means over the groups."""
    random = np.random.default_rng(seed)
    halves = [of_halves(each, samples, random) for each in groups]
    noise = of_noise(groups, samples, random)
    lines = [
        f"| group | choices | regret | random halves | if all errors were noise | τ | τ beyond {100 * apart:.0f} % | "
        "repeats apart |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    chosen = [regret(each.predicted, each.measured) for each in groups]
    taus = [kendall_tau(each.predicted, each.measured) for each in groups]
    beyond = [tau_apart(each, apart) for each in groups]
    for i, group in enumerate(groups):
        parts = [_percent(chosen[i]), _range(halves[i]), _range(noise[i]), _number(taus[i]), _number(beyond[i])]
        lines.append(f"| {group.name} | {len(group.measured)} | {' | '.join(parts)} | {_percent(group.spread)} |")
    means = [_percent(float(np.mean(chosen))), _range(np.mean(halves, axis=0)), _range(np.mean(noise, axis=0))]
    means += [_number(_mean(taus)), _number(_mean(beyond)), _percent(max(each.spread for each in groups))]
    lines.append(f"| **mean** | {sum(len(each.measured) for each in groups)} | {' | '.join(means)} |")
    return "\n".join(lines)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _range(values: Floats) -> str:
    low, high = np.quantile(values, [0.05, 0.95])
    return f"{100 * values.mean():.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a fraction below 1 but got {text}")
    return value


def _count(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least} but got {text}")
        return value

    return read


def main() -> int:
    """Print the table of one file; exit code 2 with one line when it cannot be read or has no such group."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__)
    parser.add_argument("file", type=Path, help="a CSV of measured runs")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=TEXT", help="keep matching rows only")
    parser.add_argument("--samples", type=_count(1), default=2000, help="random draws")
    parser.add_argument("--seed", type=_count(0), default=0, help="of the random draws")
    parser.add_argument("--apart", type=_share, default=0.02, help="fraction by which pairs must differ")
    options = parser.parse_args()
    try:
        read = runs_in(options.file, matching(options.where))
    except (TableError, OSError) as error:
        return unreadable(error)
    groups = groups_of([each for each in read if isinstance(each, Run)])
    if not groups:
        print(f"error: {options.file}: no three choices to compare in any group", file=sys.stderr)
        return 2
    print(table(groups, options.samples, options.seed, options.apart))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How the training cost model does on workloads that it was not fitted on, over many random halves.

    python -m benchmarks.halves [--data FOLDER] [--coefficients FILE.json] [--count N]

Whole workloads, every (source, model, accelerator, devices), fall on either side of each half by a hash that starts
with its number. The model is fitted on one side and judged on the other. So that many fits are cheap, the logarithms of
its predictions are taken as linear in the fitted coordinates about the given coefficients; what no row of a side
touches begins at its prior.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.coefficient_space import PARAMETERS, read_value, skeleton
from benchmarks.fit_training import DEFAULT_DATA, TARGET, WEIGHTS, Problem, load
from benchmarks.fitting import Floats, Settings, fit, slopes
from benchmarks.measurements.cells import TableError, unreadable
from benchmarks.measurements.runs import Run
from benchmarks.metrics import Trial, errors, ranking

APART = ("vTrain", "Sailor", "SimuMax")


@dataclass(frozen=True, slots=True)
class Headline:
    """One figure that is judged: of the sources whose name holds a text, with the limit that it is meant to keep."""

    name: str
    chosen: Callable[[str], bool]
    figure: str
    limit: float

    def of(self, runs: Sequence[Run], predicted: Floats, aside: Sequence[int]) -> float | None:
        """The figure over rows; None where there is nothing to compute it from."""
        rows = [i for i in aside if self.chosen(runs[i].source)]
        if self.figure in ("regret", "τ"):
            trials = [
                Trial(runs[i].group, runs[i].strategy, predicted[i], float(runs[i].measured_s or 0)) for i in rows
            ]
            found = ranking(trials)
            return found.regret if self.figure == "regret" else found.kendall_tau
        spread = errors([predicted[i] for i in rows], [float(runs[i].measured_s or 0) for i in rows])
        return None if spread is None else float(getattr(spread, f"{self.figure}_ape"))

    def kept(self, value: float) -> bool:
        """Whether a value keeps the limit, from above for τ and from below for the rest."""
        return value >= self.limit if self.figure == "τ" else value <= self.limit


def _holds(text: str) -> Callable[[str], bool]:
    return lambda source: text in source


def _plain(source: str) -> bool:
    return not source.startswith(APART)


HEADLINES = (
    Headline("training.csv", _plain, "median", 0.08),
    Headline("training.csv", _plain, "p90", 0.20),
    Headline("training.csv without AMP", lambda source: _plain(source) and "AMP" not in source, "p90", 0.20),
    Headline("vTrain on several nodes", _holds("multi-node runs"), "mean", 0.08),
    Headline("vTrain on several nodes", _holds("multi-node runs"), "regret", 0.01),
    Headline("vTrain on one node", _holds("single-node runs"), "mean", 0.15),
    Headline("vTrain on one node", _holds("single-node runs"), "regret", 0.05),
    Headline("Korthikanti et al., table 5", _holds("2022 Table 5"), "mean", 0.03),
    Headline("Sailor, GH200", _holds("Sailor"), "mean", 0.08),
    Headline("SimuMax, B200", _holds("SimuMax"), "mean", 0.05),
    Headline("AMP, T4", _holds("AMP"), "mean", 0.15),
    Headline("BLOOM sweep", _holds("BLOOM-176B prequel"), "τ", 0.80),
)


class Linear:
    """A problem's predictions, their logarithms linear in the fitted coordinates about some coefficients."""

    def __init__(self, problem: Problem, values: Sequence[float]) -> None:
        self.center = np.array([p.inward(value) for p, value in zip(PARAMETERS, values, strict=True)])
        predicted = problem.predict(values, None, None)

        def at(point: Floats) -> list[float]:
            return [p.outward(float(each)) for p, each in zip(PARAMETERS, point, strict=True)]

        self.slopes = slopes(self.center, predicted, at, problem.predict, Settings().step)
        self.logarithms = np.log(predicted)

    def predict(self, values: Sequence[float], _only: int | None = None, _previous: Floats | None = None) -> Floats:
        """Step times under other coefficients; see `fitting.fit`."""
        point = np.array([p.inward(value) for p, value in zip(PARAMETERS, values, strict=True)])
        return np.asarray(np.exp(self.logarithms + self.slopes @ (point - self.center)))


def falls_aside(run: Run, number: int) -> bool:
    """Whether a run's whole workload is on the side of a half that is not fitted."""
    devices = run.cluster.nodes * run.cluster.devices
    workload = f"{number}|{run.source}|{run.model.name}|{run.cluster.accelerator}|{devices}"
    return hashlib.sha256(workload.encode()).digest()[0] % 2 == 1


def figures_of_halves(problem: Problem, values: Sequence[float], count: int) -> list[list[float]]:
    """Of every headline its values over the halves that have rows of it aside."""
    linear = Linear(problem, values)
    weights = np.array([WEIGHTS.get(run.source, 1.0) for run in problem.runs])
    result: list[list[float]] = [[] for _ in HEADLINES]
    for number in range(1, count + 1):
        aside = np.array([falls_aside(run, number) for run in problem.runs])
        counted = weights * ~aside
        touched = np.abs(linear.slopes[counted > 0]).max(axis=0, initial=0.0) > 0
        start = [value if seen else p.prior for p, value, seen in zip(PARAMETERS, values, touched, strict=True)]
        found = fit(PARAMETERS, start, problem.measured, counted, linear.predict, Settings())
        for headline, kept in zip(HEADLINES, result, strict=True):
            value = headline.of(problem.runs, found.predicted, np.flatnonzero(aside).tolist())
            if value is not None:
                kept.append(value)
    return result


def table(found: Sequence[Sequence[float]]) -> str:
    """Every headline with its limit, and over its halves the median, the middle four fifths and how many keep it."""
    lines = [
        "| source | figure | target | halves | median | 10 to 90 % | within |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for headline, values in zip(HEADLINES, found, strict=True):
        target = f"{'≥' if headline.figure == 'τ' else '≤'} {_shown(headline, headline.limit)}"
        if not values:
            lines.append(f"| {headline.name} | {headline.figure} | {target} | 0 | | | |")
            continue
        low, middle, high = (_shown(headline, float(np.quantile(values, q))) for q in (0.1, 0.5, 0.9))
        within = sum(headline.kept(value) for value in values)
        cells = [headline.name, headline.figure, target, str(len(values)), middle, f"{low} to {high}", str(within)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(headline: Headline, value: float) -> str:
    return f"{value:.2f}" if headline.figure == "τ" else f"{100 * value:.1f} %"


def main() -> int:
    """Print the table; exit code 2 with one line when a file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.halves", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the CSV files")
    parser.add_argument("--coefficients", type=Path, default=TARGET, help="where predictions are taken as linear")
    parser.add_argument("--count", type=int, default=40, help="of the halves")
    options = parser.parse_args()
    if options.count < 1:
        parser.error(f"--count must be at least 1 but got {options.count}")
    try:
        known = json.loads(options.coefficients.read_text(encoding="utf-8"))
        runs = load(options.data)
    except json.JSONDecodeError as error:
        print(f"error: {options.coefficients}: not JSON: {error}", file=sys.stderr)
        return 2
    except (TableError, OSError) as error:
        return unreadable(error)
    if not runs:
        print(f"error: {options.data}: no measured run in its tables", file=sys.stderr)
        return 2
    problem = Problem(runs, skeleton())
    values = [read_value(known, p.name, p.prior) for p in PARAMETERS]
    print(table(figures_of_halves(problem, values, options.count)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

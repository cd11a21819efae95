"""Fit the figures of planner/costs/serving/coefficients.json to measured serving rows.

    python -m benchmarks.fit_serving FILE.csv [--half even|odd] [--split N] [--without SOURCE] [--prior N]
        [--rounds N] [--steps N] [--resume FILE.json] [--output FILE.json]
    python -m benchmarks.fit_serving FILE.csv --each source|half --resume FILE.json

The start is benchmarks/serving_start.json: kernel figures read off AIConfigurator's operator tables
(aiconfigurator-core 0.12.0, Apache-2.0: gemm, attention, moe and custom all-reduce tables by accelerator and engine),
engine figures judged.
What is minimized is the sum of relative errors, each at most MOST, plus `--prior` times the squared logarithm of every
figure over its start, so that a figure that few rows speak to stays where the operator tables put it (iteratively
reweighted least squares; Gauss-Newton by differences). Every round simulates all rows and keeps their steps; the steps
that follow time those anew and simulate nothing (see benchmarks.serving_record).

There is one set of figures per accelerator architecture and per engine generation; nothing belongs to a row, a model
or a source. `--half` fits on one half of the workloads (model, prompt and output length; by CRC-32, `--split` seeds
other halves) and reports on the other; `--without` leaves a source out and reports on it. `--each` leaves every source
out in turn, or both halves of SPLITS splits, and reports on it, with one step from the figures resumed: what the step
minimizes does not hold what is left out, but the point it is taken from has seen it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving_cases import Case, case_of
from benchmarks.serving_figures import Figures
from benchmarks.serving_models import SkippedError
from benchmarks.serving_record import Recorded, recorded

START = Path(__file__).with_name("serving_start.json")
TARGET = Path(__file__).parent.parent / "planner" / "costs" / "serving" / "coefficients.json"
# The reciprocals of the errors aimed at, times that of how many rows give a metric.
WEIGHTS = {"tpot": 1.0, "ttft": 0.4, "throughput": 0.45}
PRIOR = 1.0
MOST = 3.0
NEAR = 0.03  # errors below it pull less
DIFFERENCE = 1.03
LEAST_GAIN = 0.002
SPLITS = 5

Floats = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_serving", description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--half", choices=("even", "odd"))
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--without", default="")
    parser.add_argument("--prior", type=float, default=PRIOR)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--start", default=str(START))
    parser.add_argument("--resume", help="a fitted file to go on from; the start still is what figures are held to")
    parser.add_argument("--each", choices=("source", "half"))
    parser.add_argument("--output", default=str(TARGET))
    given = parser.parse_args(arguments)
    cases = usable_cases(given.file)
    fitted_on = [_is_fitted_on(case, given.half, given.split, given.without) for case in cases]
    document = json.loads(Path(given.start).read_text())
    resumed = json.loads(Path(given.resume).read_text()) if given.resume else document
    fit = Fit(document, resumed, cases, given.prior)
    marked = np.array(fitted_on)
    if given.each:
        fit.record(np.ones_like(marked))
        fit.leave_out(_parts(cases, given.each))
        return 0
    for left in reversed(range(given.rounds)):
        fit.record(marked if left else np.ones_like(marked))
        fit.improve(marked, given.steps)
    sources = len({case.source for case, used in zip(cases, fitted_on, strict=True) if used})
    provenance = (
        f"benchmarks/fit_serving.py on {sum(fitted_on)} measured configurations without speculative decoding, from "
        f"serving tables of {sources} sources, from {document['provenance']}"
    )
    Path(given.output).write_text(json.dumps(fit.figures.document(provenance), indent=1) + "\n")
    return 0


def half_of(case: Case, split: int = 0) -> str:
    """Which half of the workloads a case belongs to, in one of many splits."""
    key = f"{case.model_name}/{case.isl:g}/{case.osl:g}"
    return "odd" if zlib.crc32((f"{split}:{key}" if split else key).encode()) % 2 else "even"


def _parts(cases: Sequence[Case], kind: str) -> dict[str, NDArray[np.bool_]]:
    """What is left out in turn: the cases of each source, or each half of each split."""
    if kind == "source":
        return {name: np.array([each.source == name for each in cases]) for name in sorted({c.source for c in cases})}
    return {
        f"split {split}, {half} half": np.array([half_of(each, split) == half for each in cases])
        for split in range(SPLITS)
        for half in ("odd", "even")
    }


def _is_fitted_on(case: Case, half: str | None, split: int, without: str) -> bool:
    return half in (None, half_of(case, split)) and not (without and without in case.source)


def usable_cases(path: str) -> list[Case]:
    """Verified cases without speculative decoding."""
    with Path(path).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = []
    for row in rows:
        try:
            case = case_of(row)
        except SkippedError:
            continue
        if case.verified and not case.speculative:
            found.append(case)
    return found


@dataclass(frozen=True, slots=True)
class Residuals:
    """Logarithms of predicted over measured, one for every metric of every case, and which case and metric each is."""

    values: Floats
    places: NDArray[np.int64]
    metrics: NDArray[np.str_]

    @property
    def weights(self) -> Floats:
        """How much each counts."""
        return np.array([WEIGHTS[metric] for metric in self.metrics.tolist()])

    def errors(self, metric: str, used: NDArray[np.bool_]) -> Floats:
        """Absolute relative errors of one metric of the cases that are marked."""
        return np.asarray(np.abs(np.expm1(self.values[(self.metrics == metric) & used[self.places]])))


class Fit:
    """Figures on their way from a resumed document to where cases want them, held to those of a start."""

    def __init__(
        self, start: dict[str, Any], resumed: dict[str, Any], cases: Sequence[Case], prior: float = PRIOR
    ) -> None:
        self.cases, self.prior = cases, prior
        self.figures = Figures(start, cases)
        self.start = self.figures.point()
        held = Figures(resumed, cases)
        self.figures.kernels, self.figures.engines, self.figures.hosts = held.kernels, held.engines, held.hosts
        self.runs: dict[int, Recorded] = {}

    def record(self, wanted: NDArray[np.bool_]) -> None:
        """Simulate the cases that are marked with the figures as they are."""
        self.runs = {}
        for place, case in enumerate(self.cases):
            if not wanted[place]:
                continue
            try:
                self.runs[place] = recorded(case, self.figures.machine(place))
            except SkippedError:
                continue

    def residuals(self) -> Residuals:
        """How far the recorded cases are off with the figures as they are."""
        values: list[float] = []
        places: list[int] = []
        metrics: list[str] = []
        for place, run in self.runs.items():
            predicted = run.predicted(self.figures.machine(place))
            measured = self.cases[place].metrics
            values += [float(np.log(each / measured[metric])) for metric, each in predicted.items()]
            places += [place] * len(predicted)
            metrics += list(predicted)
        return Residuals(np.array(values), np.array(places), np.array(metrics))

    def slopes(self, used: NDArray[np.bool_]) -> Floats:
        """How the residuals of the cases that are marked move with the logarithm of every figure."""
        found = []
        for place, run in self.runs.items():
            base = np.log(list(run.predicted(self.figures.machine(place)).values()))
            slopes = np.zeros((len(base), len(self.figures.all)))
            for column, figure in enumerate(self.figures.all if used[place] else ()):
                if self.figures.speaks_to(place, figure):
                    value = self.figures.read(figure)
                    self.figures.write(figure, value * DIFFERENCE)
                    moved = np.log(list(run.predicted(self.figures.machine(place)).values()))
                    self.figures.write(figure, value)
                    slopes[:, column] = (moved - base) / np.log(DIFFERENCE)
            found.append(slopes)
        return np.concatenate(found)

    def improve(self, used: NDArray[np.bool_], steps: int) -> None:
        """Steps towards the least loss over the cases that are marked, as long as they help."""
        now = self.residuals()
        loss = self._loss(now, used)
        self._print("before", now, used)
        for number in range(steps):
            origin, slopes = self.figures.point(), self.slopes(used)
            move = self._move(now, slopes, used)
            for scale in (1.0, 0.5, 0.2, 0.07):
                self.figures.move(origin + scale * move)
                tried = self.residuals()
                reached = self._loss(tried, used)
                if reached < loss:
                    break
            else:
                self.figures.move(origin)
                return
            gain, loss, now = loss - reached, reached, tried
            self._print(f"step {number + 1}", now, used)
            if gain < LEAST_GAIN * loss:
                return

    def leave_out(self, parts: Mapping[str, NDArray[np.bool_]]) -> None:
        """Print the errors on every part of the cases by figures that a step without it leads to."""
        everything = np.ones(len(self.cases), dtype=bool)
        origin, now, slopes = self.figures.point(), self.residuals(), self.slopes(everything)
        for name, part in parts.items():
            self.figures.move(origin + self._move(now, slopes, ~part))
            found = self.residuals()
            errors = {metric: found.errors(metric, part) for metric in WEIGHTS}
            shown = [f"{metric} {each.mean():.1%} of {each.size}" for metric, each in errors.items() if each.size]
            print(f"{name}: {', '.join(shown)}", flush=True)
        self.figures.move(origin)

    def _loss(self, residuals: Residuals, used: NDArray[np.bool_]) -> float:
        errors = np.minimum(np.abs(np.expm1(residuals.values)), MOST) * residuals.weights
        return float(errors[used[residuals.places]].sum() + self.prior * self._distance())

    def _distance(self) -> float:
        return float(((self.figures.point() - self.start) ** 2).sum())

    def _move(self, residuals: Residuals, slopes: Floats, used: NDArray[np.bool_]) -> Floats:
        """The step that the loss asks for where residuals are linear in the figures."""
        rows = used[residuals.places]
        r, w, a = residuals.values[rows], residuals.weights[rows], slopes[rows]
        off = self.figures.point() - self.start
        move = np.zeros_like(off)
        for _ in range(4):
            now = r + a @ move
            # the derivative of |exp(r) - 1| over that of r² / 2
            pull = w * np.minimum(np.exp(now), MOST) / np.maximum(np.abs(now), NEAR)
            normal = a.T @ (pull[:, None] * a) + 2 * self.prior * np.eye(len(off))
            gradient = a.T @ (pull * now) + 2 * self.prior * (off + move)
            move = move - np.clip(np.linalg.solve(normal, gradient), -0.3, 0.3)
        return np.asarray(np.clip(move, -0.5, 0.5))

    def _print(self, label: str, residuals: Residuals, used: NDArray[np.bool_]) -> None:
        shown = []
        for name, marked in (("fitted", used), ("held out", ~used)):
            errors = [residuals.errors(metric, marked) for metric in WEIGHTS]
            if all(each.size for each in errors):
                shown.append(f"{name} " + " ".join(f"{each.mean():.2%}" for each in errors))
        print(f"{label}: {'; '.join(shown)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

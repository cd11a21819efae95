"""Fits the coefficients of the training cost model to published measurements, and reports on rows it did not fit.

    python -m benchmarks.fit_training --split             fit one half of the workloads, report on both
    python -m benchmarks.fit_training --alternate SOURCE  fit every second run of the sources so called, report on both
    python -m benchmarks.fit_training --leave-one-out     report on every source by a fit without it
    python -m benchmarks.fit_training --write             fit all rows, write planner/costs/coefficients.json
    python -m benchmarks.fit_training --reset             write the priors there instead

`--split` parts whole workloads, never rows: every (source, model, accelerator, devices) falls on one side by a hash.
Every fit starts from the priors of `coefficient_space`, or with `--start FILE` from other coefficients; either way the
priors hold back what the rows do not determine. The shipped coefficients are those of `--write`; how far they
can be trusted on rows never seen is what the others say.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.coefficient_space import PARAMETERS, affects, read_value, skeleton, written
from benchmarks.fitting import Fitted, Floats, Settings, fit
from benchmarks.measurements.others import other_runs
from benchmarks.measurements.runs import Run, read_rows, runs_of
from benchmarks.metrics import Trial, errors, ranking
from benchmarks.prediction import Batch, batches
from shardwright.planner.costs.coefficients import Coefficients, Framework, Kernels
from shardwright.planner.costs.network import Groups, Network

FILES = ("training.csv", "vtrain_multi.csv", "vtrain_single.csv")
OTHERS = ("sailor_gh200.csv", "simumax_b200.csv")
TARGET = Path(__file__).resolve().parent.parent / "planner" / "costs" / "coefficients.json"
DEFAULT_DATA = TARGET.parent.parent.parent.parent / "shared" / "measured"
# Many runs of few models count less, few runs of much use more; those of a deterministic mode are only reported.
WEIGHTS = {
    "vTrain (MICRO 2024) single-node runs": 0.12,
    "Korthikanti et al. 2022 Table 5": 4.0,
    "Megatron-LM functional-test golden values (memory_speed)": 0.0,
}
Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Remembering(Network):
    """A network that keeps the collective times it has computed: they do not depend on what is fitted."""

    kept: dict[tuple[object, ...], Floats] = dataclasses.field(default_factory=dict)

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        arrays = (np.asarray(size_bytes), groups.stride, groups.ranks_per_domain, groups.domains, groups.sharing)
        key = (op, *(each.tobytes() for each in arrays))
        if key not in self.kept:
            if len(self.kept) > 4000:
                self.kept.clear()
            self.kept[key] = super().seconds(op, size_bytes, groups)
        return self.kept[key]


class Problem:
    """Measured runs and their predictions under any coefficients, batch by batch."""

    def __init__(self, runs: Sequence[Run], document: Document) -> None:
        self.document = document
        made, refusals = batches(runs)
        kept = [i for i in range(len(runs)) if i not in refusals]
        place = {i: k for k, i in enumerate(kept)}
        self.runs = [runs[i] for i in kept]
        self.batches: list[Batch] = made
        self.rows = [np.array([place[int(i)] for i in batch.rows]) for batch in made]
        self.sets = [tuple(batch.costs.device.coefficients.name.split("/")) for batch in made]
        self.measured = np.array([run.measured_s for run in self.runs], float)
        for batch in made:
            batch.costs.network = Remembering(batch.costs.network.collectives, batch.costs.network.domain)
        self.touched = [[n for n, each in enumerate(self.sets) if affects(p.name, each)] for p in PARAMETERS]

    def predict(self, values: Sequence[float], only: int | None, previous: Floats | None) -> Floats:
        """Step times under these coefficients; see `fitting.fit`."""
        document = written(self.document, values)
        chosen = range(len(self.batches)) if only is None else self.touched[only]
        result = np.empty(len(self.measured)) if previous is None else previous.copy()
        made: dict[tuple[str, ...], Coefficients] = {}
        for n in chosen:
            batch, key = self.batches[n], self.sets[n]
            if key not in made:
                made[key] = coefficients_of(document, key)
            batch.costs.device = dataclasses.replace(batch.costs.device, coefficients=made[key])
            result[self.rows[n]] = batch.costs.evaluate(batch.table).step_s
        return result

    def fitted(self, weights: Floats, start: Sequence[float], settings: Settings) -> Fitted:
        """The best coefficients for the rows of positive weight, which alone are computed until they are found."""
        counted = np.flatnonzero(weights > 0)
        inside = self if len(counted) == len(weights) else Problem([self.runs[i] for i in counted], self.document)
        found = fit(PARAMETERS, start, inside.measured, weights[counted], inside.predict, settings)
        return Fitted(found.values, self.predict(found.values, None, None), found.cost)


def coefficients_of(document: Document, key: Sequence[str]) -> Coefficients:
    """One set as the cost model picks it, from a document in memory."""
    family, dtype, framework = key
    kernels = document["kernels"][family]
    narrow = dtype if dtype in ("fp8", "fp4") and dtype in kernels else "bf16"
    return Coefficients(
        kernels=msgspec.convert(kernels["bf16"], Kernels),
        low_precision_kernels=msgspec.convert(kernels[narrow], Kernels),
        framework=msgspec.convert(document["frameworks"][framework], Framework),
        name="/".join(key),
    )


def on_report_side(run: Run) -> bool:
    """Which side of the split a run falls on, by its whole workload."""
    devices = run.cluster.nodes * run.cluster.devices
    workload = f"{run.source}|{run.model.name}|{run.cluster.accelerator}|{devices}"
    return hashlib.sha256(workload.encode()).digest()[0] % 2 == 1


def figures(name: str, runs: Sequence[Run], predicted: Floats) -> str:
    """One line of a report."""
    trials = [
        Trial(r.group, r.strategy, float(p), float(r.measured_s or 0)) for r, p in zip(runs, predicted, strict=True)
    ]
    found, ranks = errors([t.predicted for t in trials], [t.measured for t in trials]), ranking(trials)
    if found is None:
        return f"| {name} | 0 | | | | | | |"
    tau = "" if ranks.kendall_tau is None else f"{ranks.kendall_tau:.2f}"
    lost = "" if ranks.regret is None else f"{100 * ranks.regret:.1f} %"
    parts = [f"{100 * value:.1f} %" for value in (found.median_ape, found.mean_ape, found.p90_ape, found.bias)]
    return f"| {name} | {found.count} | {' | '.join(parts)} | {tau} | {lost} |"


def report(title: str, runs: Sequence[Run], predicted: Floats, chosen: Iterable[bool]) -> None:
    """A table over the chosen rows by source, and over those of training.csv together."""
    mask = np.array(list(chosen), bool)
    print(f"\n## {title}\n\n| source | rows | median | mean | p90 | bias | τ | regret |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    sources = list(dict.fromkeys(run.source for run in runs))
    for source in sources:
        here = [i for i in np.flatnonzero(mask) if runs[i].source == source]
        if here:
            print(figures(source, [runs[i] for i in here], predicted[here]))
    apart = ("vTrain", "Sailor", "SimuMax")
    plain = [i for i in np.flatnonzero(mask) if not runs[i].source.startswith(apart)]
    print(figures("**training.csv**", [runs[i] for i in plain], predicted[plain]), flush=True)


def load(data: Path) -> list[Run]:
    """Every timed run of the files."""
    found = [each for name in FILES for each in runs_of(read_rows(data / name))]
    found += [each for name in OTHERS for each in other_runs(data / name) or []]
    return [each for each in found if isinstance(each, Run) and each.measured_s is not None]


def leave_one_out(problem: Problem, weights: Floats, start: Sequence[float]) -> Floats:
    """Predictions of every source by coefficients fitted without it.

    Each fit starts from the fit of all; what only the source left out determines falls back to its prior.
    """
    result = np.empty(len(problem.runs))
    families = [family_of(run.source) for run in problem.runs]
    for family in dict.fromkeys(families):
        outside = np.array([each != family for each in families])
        found = problem.fitted(weights * outside, start, Settings(iterations=10))
        result[~outside] = found.predicted[~outside]
        print(f"left out {family}", file=sys.stderr, flush=True)
    return result


def family_of(source: str) -> str:
    """Sources that are revisions of one table are left out together."""
    for family in ("NeMo performance summary 24.07", "Korthikanti", "BigScience BLOOM"):
        if source.startswith(family):
            return family
    return source


def main() -> int:
    """Fit, report, and with `--write` write the coefficients."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_training", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the CSV files")
    parser.add_argument("--write", action="store_true", help="fit all rows and write coefficients.json")
    parser.add_argument("--reset", action="store_true", help="write the coefficients before fitting, and stop")
    parser.add_argument("--split", action="store_true", help="fit one half, report on the other")
    parser.add_argument("--alternate", metavar="SOURCE", help="fit every second run of these sources, report on both")
    parser.add_argument("--start", type=Path, help="coefficients to start from instead of the priors")
    parser.add_argument("--iterations", type=int, default=30, help="of every fit at most")
    parser.add_argument("--leave-one-out", action="store_true", help="fit without each source in turn")
    options = parser.parse_args()
    if options.reset:
        save(skeleton(), skeleton()["provenance"])
        return 0
    document = skeleton()
    chosen = [run for run in load(options.data) if run.source.startswith(options.alternate or "")]
    problem = Problem(chosen, document)
    weights = np.array([WEIGHTS.get(run.source, 1.0) for run in problem.runs])
    known = document if options.start is None else json.loads(options.start.read_text(encoding="utf-8"))
    start = [read_value(known, p.name, p.prior) for p in PARAMETERS]
    budget = Settings(iterations=options.iterations)
    aside = np.array([on_report_side(run) for run in problem.runs])
    if options.alternate:
        aside = np.arange(len(aside)) % 2 == 1
    if options.split or options.alternate:
        half = problem.fitted(weights * ~aside, start, budget)
        report("Fitted half", problem.runs, half.predicted, ~aside)
        report("Other half, not fitted", problem.runs, half.predicted, aside)
    if options.write or options.leave_one_out:
        whole = problem.fitted(weights, start, budget)
        report("All rows, fitted", problem.runs, whole.predicted, np.ones(len(aside), bool))
        if options.write:
            files = ", ".join((*FILES, *OTHERS))
            where = f"fitted by benchmarks/fit_training.py to {len(problem.runs)} published runs of {files}"
            save(written(document, whole.values), where)
        if options.leave_one_out:
            alone = leave_one_out(problem, weights, whole.values)
            report("Each source by a fit without it", problem.runs, alone, np.ones(len(aside), bool))
    return 0


def save(document: Document, provenance: str) -> None:
    """Write the coefficients with where they come from, numbers at four digits."""
    result = rounded(document)
    result["provenance"] = provenance
    TARGET.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Every number of a document at four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())

"""Predicted against measured memory of one device, for every row that carries allocated or reserved memory.

    python -m benchmarks.accuracy memory [FILE.csv ...] [--json]

Without files: the reference measurements, where they lie beside the repository. Memory called allocated (torch's
max_memory_allocated) is compared without the caching allocator's slack and the device context; memory called reserved
or peak, or what a monitor reports, with them; published analytic bars with states and activations only.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measurements.cells import TableError, text, unreadable
from benchmarks.measurements.others import runs_in
from benchmarks.measurements.runs import Memory, Run, Skipped
from benchmarks.metrics import errors
from benchmarks.prediction import evaluations
from shardwright.planner.costs.footprint import CATEGORIES

MEASURED = Path(__file__).resolve().parent.parent.parent / "shared" / "measured"
FILES = ("training.csv", "sailor_gh200.csv", "simumax_b200.csv")
COUNTED = {
    "allocated": tuple(name for name in CATEGORIES if name not in ("allocator", "context")),
    "reserved": CATEGORIES,
    "analytic": ("weights", "gradients", "optimizer", "activations"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row: measured and predicted bytes, what kind of memory, and the prediction by category."""

    run: Run
    kind: str
    measured_bytes: float
    predicted_bytes: float
    categories: dict[str, float]


def kind_of(memory: Memory) -> str:
    """Which categories a source's words for its figure count."""
    words = memory.kind.lower()
    if "analytic" in words or "paper fig" in words:
        return "analytic"
    return "allocated" if "allocated" in words else "reserved"


def outcomes(runs: Sequence[Run]) -> tuple[list[Outcome], dict[int, str]]:
    """Every run with memory, on the stage that holds most of what is counted; and why others have no prediction."""
    made, refusals = evaluations(runs)
    found: dict[int, Outcome] = {}
    for batch, costs in made:
        memory = costs.footprint.device
        for row, place in enumerate(batch.rows.tolist()):
            run = runs[place]
            assert run.memory is not None
            kind = kind_of(run.memory)
            chosen = [CATEGORIES.index(name) for name in COUNTED[kind]]
            stage = int(np.argmax(memory[row][:, chosen].sum(axis=1)))
            held = memory[row, stage]
            found[place] = Outcome(
                run=run,
                kind=kind,
                measured_bytes=run.memory.measured_bytes,
                predicted_bytes=float(held[chosen].sum()),
                categories={name: float(value) for name, value in zip(CATEGORIES, held, strict=True)},
            )
    return [found[place] for place in sorted(found)], refusals


def load(files: Iterable[Path]) -> tuple[list[Run], Counter[str]]:
    """The runs with memory of all files, and why other rows with memory were left out."""
    runs: list[Run] = []
    skipped: Counter[str] = Counter()
    for path in files:
        for each in runs_in(path, lambda row: bool(text(row, "memory_GB_per_gpu")), timed=False):
            if isinstance(each, Skipped):
                skipped[each.reason] += 1
            elif each.memory is not None:
                runs.append(each)
    return runs, skipped


def report(found: Sequence[Outcome]) -> dict[str, dict[str, float | int | None]]:
    """Errors by source and kind, and in total; `lowest` is how far the lowest prediction is below its measurement."""
    groups: dict[str, list[Outcome]] = {"total": list(found)}
    for each in found:
        groups.setdefault(f"{each.run.source} ({each.kind})", []).append(each)
    result: dict[str, dict[str, float | int | None]] = {}
    for name, part in groups.items():
        predicted, measured = [e.predicted_bytes for e in part], [e.measured_bytes for e in part]
        whole = errors(predicted, measured)
        result[name] = {
            "rows": len(part),
            "median_ape": whole.median_ape if whole else None,
            "mean_ape": whole.mean_ape if whole else None,
            "p90_ape": whole.p90_ape if whole else None,
            "bias": whole.bias if whole else None,
            "lowest": min((p / m - 1 for p, m in zip(predicted, measured, strict=True)), default=None),
        }
    return result


def main(arguments: Sequence[str]) -> int:
    """The subcommand; exit code 2 with one line when a file cannot be read or is another table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy memory", description=__doc__)
    parser.add_argument(
        "files", type=Path, nargs="*", help="CSV files; default: the reference measurements beside the repository"
    )
    parser.add_argument("--json", action="store_true", help="print only JSON")
    options = parser.parse_args(arguments)
    files = options.files or [MEASURED / name for name in FILES if (MEASURED / name).exists()]
    try:
        runs, skipped = load(files)
    except (TableError, OSError) as error:
        return unreadable(error)
    found, refusals = outcomes(runs)
    skipped.update(refusals.values())
    if options.json:
        print(json.dumps(report(found) | {"skipped": dict(skipped)}, indent=2, ensure_ascii=False))
        return 0
    print("| row | kind | measured GB | predicted GB | error | of which |\n|---|---|---:|---:|---:|---|")
    for each in found:
        share = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in each.categories.items() if value >= 5e7)
        error = 100 * (each.predicted_bytes / each.measured_bytes - 1)
        sizes = f"{each.measured_bytes / 1e9:.1f} | {each.predicted_bytes / 1e9:.1f}"
        print(f"| {each.run.id} | {each.kind} | {sizes} | {error:+.1f} % | {share} |")
    print("\n| source | rows | median | mean | p90 | bias | lowest |\n|---|---:|---:|---:|---:|---:|---:|")
    for name, part in report(found).items():
        cells = [part[key] for key in ("median_ape", "mean_ape", "p90_ape", "bias", "lowest")]
        percents = " | ".join("" if value is None else f"{100 * value:.1f} %" for value in cells)
        print(f"| {name} | {part['rows']} | {percents} |")
    for reason, number in skipped.most_common():
        print(f"\n{number} rows not predicted: {reason}")
    return 0

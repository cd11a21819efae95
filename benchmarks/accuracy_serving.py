"""Predicted against measured serving: TPOT, TTFT and throughput errors by source, and the ranking of layouts.

    python -m benchmarks.accuracy serving FILE.csv [--json] [--all] [--half even|odd] [--rows]

Rows marked verified and without speculative decoding count (`--all`: every row). An error is predicted / measured - 1.
`rows` are the rows that give a metric, `predicted` those of them that could be predicted; `skipped` says why others
could not. A pair of layouts is two rows of one source that differ in tp, pp, ep or dp alone: same model, number
formats, devices and how many of them, engine and version, lengths and load; a prediction puts a pair in order by
tokens per second and device (TPOT where no throughput is given). Regret is how much is lost by taking the layout
predicted to be best. Pairs are `apart` that measured more than APART from each other: what is nearer differs by less
than one run of a layout does from the next. `--half` keeps one half of the workloads, by the split of
benchmarks.fit_serving.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fit_serving import half_of
from benchmarks.metrics import errors, regret
from benchmarks.serving_cases import Case, Row, case_of
from benchmarks.serving_models import SkippedError
from benchmarks.serving_prediction import predict
from shardwright.models import ModelError
from shardwright.planner.errors import ShardwrightError
from shardwright.topologies import TopologyError

METRICS = ("tpot", "ttft", "throughput")
APART = 0.02
OFFLINE = ("max_throughput", "poisson SLO", "static_batch")
_NEEDED = ("model", "gpu", "num_gpus", "engine", "isl", "osl", "load_kind", "source", "source_confidence")
_COLUMNS = {"tpot": ("tpot_ms",), "ttft": ("ttft_ms",), "throughput": ("out_tok_s_gpu", "out_tok_s")}


_ODD = (ShardwrightError, ModelError, TopologyError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row: its case and predictions, or why there are none."""

    row: Row
    case: Case | None
    predicted: dict[str, float]
    reason: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Report on one file; exit code 2 with one line when it cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy serving", description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--half", choices=("even", "odd"))
    parser.add_argument("--rows", action="store_true", help="also every row's predictions, on stderr")
    given = parser.parse_args(arguments)
    try:
        with Path(given.file).open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        print(f"error: {given.file}: {error}", file=sys.stderr)
        return 2
    missing = [each for each in _NEEDED if each not in columns]
    if missing or not rows:
        wrong = f"it has no column {', '.join(missing)}" if missing else "it has no rows"
        print(f"error: {given.file}: not a table of serving measurements: {wrong}", file=sys.stderr)
        return 2
    found = [each for each in outcomes(rows, given.all) if given.half in (None, _half(each))]
    if given.rows:
        _print_rows(found)
    report = report_of(found)
    if given.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)
    return 0


def outcomes(rows: Iterable[Row], every: bool = False) -> list[Outcome]:
    """Every row predicted or skipped, in order."""
    result = []
    for row in rows:
        reason = "" if every else _left_out(row)
        if reason:
            result.append(Outcome(row, None, {}, reason))
            continue
        try:
            case = case_of(row)
            result.append(Outcome(row, case, predict(case)))
        except SkippedError as error:
            result.append(Outcome(row, None, {}, str(error)))
        except _ODD as error:  # an odd row must not end the report
            result.append(Outcome(row, None, {}, f"unreadable ({type(error).__name__})"))
    return result


def report_of(found: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of the report."""
    counted = [each for each in found if each.reason not in (_NOT_VERIFIED, _SPECULATIVE)]
    sources = sorted({_text(each.row, "source") for each in counted})
    right, apart, lost = _layouts(counted)
    return {
        "metrics": {metric: _figures(counted, metric) for metric in METRICS},
        "by_source": {
            source: _of_source([each for each in counted if _text(each.row, "source") == source]) for source in sources
        },
        "by_load": {
            "offline throughput": _figures([each for each in counted if _is_offline(each)], "throughput"),
            "online throughput": _figures([each for each in counted if not _is_offline(each)], "throughput"),
        },
        "layout_pairs": len(right),
        "layout_pairs_right": _mean(right),
        "layout_pairs_apart": len(apart),
        "layout_pairs_apart_right": _mean(apart),
        "layout_regret": _mean(lost),
        "skipped": dict(Counter(each.reason for each in found if each.reason).most_common()),
    }


_NOT_VERIFIED = "not marked verified"
_SPECULATIVE = "speculative decoding, or not known whether"


def _left_out(row: Row) -> str:
    if _text(row, "source_confidence") != "verified":
        return _NOT_VERIFIED
    spec = _text(row, "spec_decode").lower()
    return "" if spec == "" or spec.startswith("no") else _SPECULATIVE


def _of_source(found: Sequence[Outcome]) -> dict[str, Any]:
    figures = {metric: _figures(found, metric) for metric in METRICS}
    return {metric: each for metric, each in figures.items() if each["rows"]}


def _figures(found: Sequence[Outcome], metric: str) -> dict[str, Any]:
    given = [each for each in found if any(_gives(each.row, column) for column in _COLUMNS[metric])]
    pairs = [
        (each.predicted[metric], each.case.metrics[metric]) for each in given if each.case and metric in each.predicted
    ]
    computed = errors([p for p, _ in pairs], [m for _, m in pairs])
    return {
        "rows": len(given),
        "predicted": len(pairs),
        "median_ape": computed.median_ape if computed else None,
        "mean_ape": computed.mean_ape if computed else None,
        "p90_ape": computed.p90_ape if computed else None,
        "bias": computed.bias if computed else None,
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _layouts(found: Sequence[Outcome]) -> tuple[list[float], list[float], list[float]]:
    """Whether each pair of layouts is put in the right order, the same of those apart, and the regret of each group."""
    groups: dict[tuple[str, ...], dict[str, list[tuple[float, float]]]] = {}
    for each in found:
        if each.case is None:
            continue
        metric = "throughput" if "throughput" in each.predicted else "tpot"
        if metric not in each.predicted:
            continue
        predicted, measured = each.predicted[metric], each.case.metrics[metric]
        times = (1 / predicted, 1 / measured) if metric == "throughput" else (predicted, measured)
        label = " / ".join(layout.label() for layout in each.case.layouts) + f" x{each.case.workers}"
        groups.setdefault((*each.case.group, metric), {}).setdefault(label, []).append(times)
    right: list[float] = []
    apart: list[float] = []
    lost: list[float] = []
    for group in groups.values():
        if len(group) < 2:
            continue
        medians = [tuple(float(np.median(values)) for values in zip(*times, strict=True)) for times in group.values()]
        lost.append(regret([p for p, _ in medians], [m for _, m in medians]))
        for (p1, m1), (p2, m2) in combinations(medians, 2):
            if m1 != m2:
                right.append(float((p1 < p2) == (m1 < m2)) if p1 != p2 else 0.5)
                if abs(m1 / m2 - 1) > APART:
                    apart.append(right[-1])
    return right, apart, lost


def _half(each: Outcome) -> str:
    return half_of(each.case) if each.case else ""


def _is_offline(each: Outcome) -> bool:
    return _text(each.row, "load_kind") in OFFLINE


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    return value.strip() if isinstance(value, str) else ""


def _gives(row: Row, column: str) -> bool:
    try:
        return float(_text(row, column).replace(",", "")) > 0
    except ValueError:
        return False


def _print(report: dict[str, Any]) -> None:
    print(f"{'':62}{'rows':>6}{'pred':>6}{'median':>8}{'mean':>8}{'p90':>8}{'bias':>8}")
    for metric, figures in report["metrics"].items():
        _line(metric, figures)
    for kind, figures in report["by_load"].items():
        _line(kind, figures)
    for source, metrics in report["by_source"].items():
        for metric, figures in metrics.items():
            _line(f"{source[:50]} {metric}", figures)
    share, lost = report["layout_pairs_right"], report["layout_regret"]
    if share is not None:
        print(f"layout pairs in the right order: {share:.1%} of {report['layout_pairs']}; mean regret {lost:.1%}")
    if report["layout_pairs_apart"]:
        print(f"of those apart: {report['layout_pairs_apart_right']:.1%} of {report['layout_pairs_apart']}")
    for reason, number in report["skipped"].items():
        print(f"skipped {number}: {reason}")


def _line(name: str, figures: dict[str, Any]) -> None:
    cells = [figures[key] for key in ("median_ape", "mean_ape", "p90_ape", "bias")]
    shown = "".join(f"{'-' if cell is None else f'{cell:.1%}':>8}" for cell in cells)
    print(f"{name:62}{figures['rows']:>6}{figures['predicted']:>6}{shown}")


def _print_rows(found: Sequence[Outcome]) -> None:
    for each in found:
        if each.case:
            values = " ".join(f"{m} {v:.4g}/{each.case.metrics[m]:.4g}" for m, v in each.predicted.items())
            print(f"{each.case.name}: {values}", file=sys.stderr)

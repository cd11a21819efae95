"""Predicted against measured step times: errors by source, rank agreement and regret inside groups.

    python -m benchmarks.accuracy training FILE.csv [--json] [--rows] [--where COLUMN=TEXT ...]

The error of a row is predicted / measured step time - 1; the measured time is `rep_iter_time_s`, else what
`derived_tokens_per_s_per_gpu` implies. Kendall's τ-b and regret are over groups of rows of one source that share
model, devices, sequence, batch and precision; equal strategies in a group are repeats and count once. The tables of
Sailor, SimuMax and AMP are known by their own columns (measurements/others.py).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measurements.cells import Row, TableError, text, unreadable
from benchmarks.measurements.others import runs_in
from benchmarks.measurements.runs import Run, Skipped
from benchmarks.metrics import Trial, errors, ranking
from benchmarks.prediction import predict


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row: where it is from, and either its prediction or the reason why there is none."""

    id: str
    source: str
    predicted_s: float | None
    measured_s: float | None
    trial: Trial | None
    reason: str
    assumptions: tuple[str, ...] = ()


Figures = dict[str, float | int | None]


def outcomes(read: Sequence[Run | Skipped]) -> list[Outcome]:
    """Every row predicted or skipped, in order."""
    runs = [each for each in read if isinstance(each, Run)]
    predictions = predict(runs)
    result: list[Outcome] = []
    place = -1
    for each in read:
        if isinstance(each, Skipped):
            result.append(Outcome(each.id, each.source, None, None, None, each.reason))
            continue
        place += 1
        if place in predictions.refusals:
            reason = f"refused: {predictions.refusals[place]}"
            result.append(Outcome(each.id, each.source, None, None, None, reason))
            continue
        predicted, measured = float(predictions.step_s[place]), float(each.measured_s or 0.0)
        trial = Trial(each.group, each.strategy, predicted, measured)
        result.append(Outcome(each.id, each.source, predicted, measured, trial, "", each.assumptions))
    return result


def figures(part: Sequence[Outcome]) -> Figures:
    """The numbers of one source, or of all: errors as fractions, None where there is nothing to compute them from."""
    trials = [each.trial for each in part if each.trial is not None]
    found = errors([t.predicted for t in trials], [t.measured for t in trials])
    ranks = ranking(trials)
    return {
        "rows": len(part),
        "predicted": len(trials),
        "median_ape": found.median_ape if found else None,
        "mean_ape": found.mean_ape if found else None,
        "p90_ape": found.p90_ape if found else None,
        "bias": found.bias if found else None,
        "kendall_tau": ranks.kendall_tau,
        "regret": ranks.regret,
    }


def report(found: Sequence[Outcome]) -> dict[str, object]:
    """What `--json` prints."""
    sources = dict.fromkeys(each.source for each in found)
    return {
        "total": figures(found),
        "by_source": {name: figures([each for each in found if each.source == name]) for name in sources},
        "skipped": dict(Counter(each.reason for each in found if each.reason).most_common()),
    }


def table(found: Sequence[Outcome]) -> str:
    """The report as a markdown table, with the reasons for skipping and the assumptions made below it."""
    whole = report(found)
    by_source = whole["by_source"]
    assert isinstance(by_source, dict)
    lines = [
        "| source | rows | predicted | median | mean | p90 | bias | τ | regret |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_line(name, each) for name, each in by_source.items()]
    lines.append(_line("**total**", figures(found)))
    skipped = Counter(each.reason for each in found if each.reason)
    assumed = Counter(assumption for each in found for assumption in each.assumptions)
    for title, counted in (("Not predicted", skipped), ("Assumed, in rows that were predicted", assumed)):
        if counted:
            lines += ["", f"{title}:", "", *(f"- {number} rows: {what}" for what, number in counted.most_common())]
    return "\n".join(lines)


def _line(name: str, part: Figures) -> str:
    percents = [_percent(part[key]) for key in ("median_ape", "mean_ape", "p90_ape", "bias")]
    tau = "" if part["kendall_tau"] is None else f"{part['kendall_tau']:.2f}"
    cells = [name, str(part["rows"]), str(part["predicted"]), *percents, tau, _percent(part["regret"])]
    return f"| {' | '.join(cells)} |"


def _percent(value: float | int | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def matching(wanted: Sequence[str]) -> Callable[[Row], bool]:
    """Whether a row's column contains the text, for every `COLUMN=TEXT`."""
    pairs = [each.partition("=")[::2] for each in wanted]
    return lambda row: all(what in text(row, column) for column, what in pairs)


def main(arguments: Sequence[str]) -> int:
    """The subcommand; exit code 2 with one line when the file cannot be read or is another table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy training", description=__doc__)
    parser.add_argument("file", type=Path, help="a CSV with the columns of training.csv")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    parser.add_argument("--rows", action="store_true", help="print every row's prediction as well")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=TEXT", help="keep matching rows only")
    options = parser.parse_args(arguments)
    try:
        read = runs_in(options.file, matching(options.where))
    except (TableError, OSError) as error:
        return unreadable(error)
    timed = [each for each in read if isinstance(each, Skipped) or each.measured_s is not None]
    found = outcomes(timed)
    if options.json:
        print(json.dumps(report(found), indent=2, ensure_ascii=False))
        return 0
    print(table(found))
    if options.rows:
        print("\n| row | measured s | predicted s | error |\n|---|---:|---:|---:|")
        for each in found:
            if each.predicted_s is not None and each.measured_s:
                error = _percent(each.predicted_s / each.measured_s - 1)
                print(f"| {each.id} | {each.measured_s:.4g} | {each.predicted_s:.4g} | {error} |")
    return 0

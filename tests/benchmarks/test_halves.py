from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.coefficient_space import PARAMETERS, skeleton
from benchmarks.fit_training import Problem
from benchmarks.halves import HEADLINES, Headline, Linear, falls_aside, figures_of_halves, main, table
from benchmarks.measurements.runs import Run, runs_of
from tests.benchmarks.rows import row

PRIORS = [p.prior for p in PARAMETERS]


def runs() -> list[Run]:
    """Two workloads, that differ in their devices, of four micro-batch sizes each."""
    made = [
        row(
            id=f"{dp}-{mbs}",
            num_gpus=str(16 * dp),
            nodes=str(2 * dp),
            dp=str(dp),
            mbs=str(mbs),
            rep_iter_time_s=f"{20 - mbs}",
        )
        for dp in (4, 8)
        for mbs in (1, 2, 4, 8)
    ]
    return [each for each in runs_of(made) if isinstance(each, Run)]


def test_whole_workloads_fall_aside_and_not_always_the_same() -> None:
    sides = [[falls_aside(run, number) for run in runs()] for number in range(1, 21)]
    assert all(len(set(side[:4])) == len(set(side[4:])) == 1 for side in sides)
    assert len({tuple(side) for side in sides}) > 2


def test_linear_predictions_are_the_models_own_where_they_are_taken_and_close_to_it_nearby() -> None:
    problem = Problem(runs(), skeleton())
    linear = Linear(problem, PRIORS)
    assert linear.predict(PRIORS) == pytest.approx(problem.predict(PRIORS, None, None))
    nearby = [p.outward(p.inward(p.prior) + 0.02) for p in PARAMETERS]
    assert linear.predict(nearby) == pytest.approx(problem.predict(nearby, None, None), rel=0.005)


def test_a_half_without_rows_of_a_source_gives_no_figure_of_it() -> None:
    found = figures_of_halves(Problem(runs(), skeleton()), PRIORS, 8)
    by_name = {(each.name, each.figure): values for each, values in zip(HEADLINES, found, strict=True)}
    with_rows = [number for number in range(1, 9) if any(falls_aside(run, number) for run in runs())]
    assert len(by_name["training.csv", "median"]) == len(with_rows) > 0
    assert by_name["Sailor, GH200", "mean"] == []


def test_a_headline_is_of_its_own_source_and_of_the_rows_aside() -> None:
    measured = runs()
    predicted = np.array([2.0 * float(run.measured_s or 0) for run in measured])
    predicted[0] *= 2
    every = Headline("all", lambda source: True, "mean", 0.1)
    assert every.of(measured, predicted, range(1, 8)) == pytest.approx(1.0)
    assert every.of(measured, predicted, range(8)) == pytest.approx(10 / 8)
    assert Headline("none", lambda source: False, "mean", 0.1).of(measured, predicted, range(8)) is None


def test_agreement_keeps_its_limit_from_above_and_errors_from_below() -> None:
    agreement, error = Headline("a", lambda source: True, "τ", 0.8), Headline("e", lambda source: True, "mean", 0.1)
    assert agreement.kept(0.9)
    assert not agreement.kept(0.7)
    assert error.kept(0.05)
    assert not error.kept(0.2)


def test_the_table_counts_the_halves_that_keep_the_target() -> None:
    lines = table([[0.05, 0.09]] + [[] for _ in HEADLINES[1:]]).splitlines()
    assert lines[2] == "| training.csv | median | ≤ 8.0 % | 2 | 7.0 % | 5.4 % to 8.6 % | 1 |"
    assert lines[-1] == "| BLOOM sweep | τ | ≥ 0.80 | 0 | | | |"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "{empty}"], "{empty}/training.csv: No such file"),
        (["--data", "{empty}", "--coefficients", "{empty}/none.json"], "{empty}/none.json: No such file"),
        (["--data", "{empty}", "--coefficients", "{text}"], "{text}: not JSON"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.mkdir()
    text.write_text("no coefficients")
    monkeypatch.setattr("sys.argv", ["halves", *(each.format(empty=empty, text=text) for each in arguments)])
    assert main() == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert said.format(empty=empty, text=text) in shown

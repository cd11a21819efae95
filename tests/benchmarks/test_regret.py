from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.measurements.runs import Run, runs_of
from benchmarks.metrics import regret
from benchmarks.regret import Group, groups_of, main, of_halves, of_noise, table, tau_apart
from tests.benchmarks.rows import COLUMNS, row


def group(predicted: list[float], measured: list[float]) -> Group:
    return Group("g", np.array(predicted), np.array(measured), np.full(len(measured), 8), 0.0)


def rows() -> list[dict[str, str | None]]:
    found = [row(id=f"mbs{mbs}", mbs=str(mbs), rep_iter_time_s=str(20 - mbs)) for mbs in (1, 2, 4, 8)]
    return [*found, row(id="again", mbs="8", rep_iter_time_s="13.2")]


def test_repeats_of_one_choice_are_one_choice_and_say_how_far_apart_they_lie() -> None:
    (found,) = groups_of([each for each in runs_of(rows()) if isinstance(each, Run)])
    assert len(found.measured) == 4
    assert found.measured[3] == pytest.approx(12.6)
    assert found.spread == pytest.approx(0.1)


def test_halves_of_a_perfect_prediction_have_no_regret() -> None:
    perfect = group([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0])
    assert not of_halves(perfect, 50, np.random.default_rng(0)).any()


def test_a_half_never_compares_with_choices_outside_it() -> None:
    reverse = group([2.0, 1.0], [10.0, 20.0])
    assert not of_halves(reverse, 20, np.random.default_rng(0)).any()


def test_noise_of_equal_errors_is_none_and_of_wide_errors_is_regret() -> None:
    predicted = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05]
    biased = group(predicted, [1.3 * each for each in predicted])
    assert of_noise([biased], 50, np.random.default_rng(0))[0] == pytest.approx(0)
    wide = group(predicted, [each * error for each, error in zip(predicted, (0.8, 1.2, 0.9, 1.1, 1, 1), strict=True)])
    assert of_noise([wide], 200, np.random.default_rng(0))[0].mean() > 0.1


def test_pairs_too_close_to_tell_apart_do_not_count() -> None:
    close = group([1.0, 2.0, 3.0], [10.1, 10.0, 20.0])
    assert tau_apart(close, 0.02) == 1.0
    assert tau_apart(close, 0.0) == pytest.approx(1 / 3)
    assert tau_apart(close, 2.0) is None


def test_the_same_seed_prints_the_same_table() -> None:
    found = [group([1.0, 1.1, 1.2, 1.3, 1.4], [1.2, 1.1, 1.0, 1.4, 1.5])]
    assert table(found, 100, 3, 0.02) == table(found, 100, 3, 0.02)
    assert f"| {100 * regret(found[0].predicted, found[0].measured):.1f} % |" in table(found, 100, 3, 0.02)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.csv"], "No such file"),
        (["one.csv"], "no three choices"),
        (["one.csv", "--samples", "0"], "at least 1"),
        (["one.csv", "--apart", "3"], "a fraction below 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = row()
    text = ",".join(COLUMNS) + "\n" + ",".join(values[name] or "" for name in COLUMNS) + "\n"
    (tmp_path / "one.csv").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["regret", *arguments])
    try:
        code: object = main()
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert said in capsys.readouterr().err

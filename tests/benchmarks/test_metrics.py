from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.metrics import Trial, errors, kendall_tau, ranking, regret

VALUES = st.lists(st.integers(1, 5), min_size=3, max_size=6)


def test_errors_are_fractions_of_the_measurement() -> None:
    found = errors([1.1, 0.8, 1.0], [1.0, 1.0, 1.0])
    assert found is not None
    assert (found.count, found.median_ape, found.mean_ape) == (3, pytest.approx(0.1), pytest.approx(0.1))
    assert found.bias == pytest.approx(-0.1 / 3)
    assert found.p90_ape == pytest.approx(0.18)


def test_nothing_has_no_errors() -> None:
    assert errors([], []) is None


@given(VALUES, st.randoms(use_true_random=False))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_tau_counts_pairs_in_agreement_less_those_in_disagreement(first: list[int], random: object) -> None:
    second = [random.randint(1, 5) for _ in first]  # type: ignore[attr-defined]
    agree = disagree = tied_first = tied_second = 0
    for (a, b), (c, d) in itertools.combinations(zip(first, second, strict=True), 2):
        agree += (a - c) * (b - d) > 0
        disagree += (a - c) * (b - d) < 0
        tied_first += a == c
        tied_second += b == d
    pairs = math.comb(len(first), 2)
    scale = math.sqrt((pairs - tied_first) * (pairs - tied_second))
    expected = (agree - disagree) / scale if scale else None
    assert kendall_tau(first, second) == (None if expected is None else pytest.approx(expected))


def test_regret_is_what_the_chosen_one_takes_beyond_the_best() -> None:
    assert regret([1.0, 2.0], [12.0, 10.0]) == pytest.approx(0.2)
    assert regret([2.0, 1.0], [12.0, 10.0]) == 0.0


def test_regret_of_equal_predictions_is_their_mean() -> None:
    assert regret([1.0, 1.0, 3.0], [10.0, 12.0, 9.0]) == pytest.approx(11 / 9 - 1)


def test_repeats_of_one_choice_count_once_by_their_median() -> None:
    repeats = [Trial("g", "a", 1.0, value) for value in (10.0, 50.0, 11.0)]
    found = ranking([*repeats, Trial("g", "b", 2.0, 12.0), Trial("g", "c", 3.0, 13.0)])
    assert (found.groups, found.choices) == (1, 3)
    assert found.kendall_tau == 1.0
    assert found.regret == 0.0


def test_a_pair_has_a_regret_but_no_rank_agreement() -> None:
    found = ranking([Trial("g", "a", 2.0, 1.0), Trial("g", "b", 1.0, 1.5)])
    assert found.kendall_tau is None
    assert found.regret == pytest.approx(0.5)


def test_choices_of_different_groups_are_not_compared() -> None:
    found = ranking([Trial("g", "a", 2.0, 1.0), Trial("h", "a", 1.0, 2.0)])
    assert (found.groups, found.regret, found.kendall_tau) == (0, None, None)

"""Offers left out of a packing: none that another answer needs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from shardwright.solvers import Gap, Status, Work
from shardwright.solvers.binpacking import BinPacking, solve
from shardwright.solvers.binpacking.narrowing import FEW, closed, earned, replaced, solve_narrowed

STOP = Gap(1e-9) | Work(20_000)


def many_offers(seed: int, *, offers: int = 30, fractional: bool = True) -> BinPacking:
    """A market whose prices follow what bins carry but for 30 % either way."""
    random = np.random.default_rng(seed)
    size = random.uniform(1, 8, offers)
    rates = size[:, None] * random.lognormal(0.0, 0.4, (offers, 5))
    rates[random.random(rates.shape) < 0.1] = 0.0
    with np.errstate(divide="ignore"):
        load = np.where(rates > 0, random.uniform(0.3, 3.0, 5) / 4 / rates, np.inf)
    cost = np.round(size * random.uniform(0.7, 1.3, offers), 2)
    return BinPacking.of(cost, load, np.full(5, 4), fractional=fractional)


@pytest.mark.parametrize(("seed", "fractional"), [*product(range(3), (True, False))])
def test_few_offers_give_the_answer_of_all(seed, fractional):
    packing = many_offers(seed, fractional=fractional)
    whole, few = solve(packing, STOP), solve_narrowed(packing, STOP)
    assert few.value == pytest.approx(whole.value, rel=1e-6)
    assert few.bound <= whole.value + 1e-6
    assert few.point is not None and packing.fits(few.point.units, few.point.packing)


@pytest.mark.parametrize("seed", range(4))
def test_what_an_offer_adds_is_never_too_much(seed):
    packing = many_offers(seed, offers=8)
    bound, added = closed(packing)
    assert bound <= solve(packing, STOP).value + 1e-9
    for offer in range(8):
        with_one = replace(packing, lower=np.eye(8)[offer])
        assert bound + added[offer] <= solve(with_one, STOP).value + 1e-6


def test_limits_that_the_first_offers_break_are_kept():
    packing = many_offers(1)
    cheapest = np.argsort(closed(packing)[1])[:FEW]
    shut = replace(packing, limit_matrix=np.isin(np.arange(30), cheapest)[None, :].astype(float), limit=np.zeros(1))
    whole, few = solve(shut, STOP), solve_narrowed(shut, STOP)
    assert few.point is not None and few.value == pytest.approx(whole.value, rel=1e-6)
    assert not few.point.units[cheapest].any()
    nothing = replace(packing, limit_matrix=np.ones((1, 30)), limit=np.zeros(1))
    assert solve_narrowed(nothing, STOP).status is Status.INFEASIBLE


def test_profiles_left_out_are_priced_as_they_are_sold():
    packing = many_offers(2)
    point = solve_narrowed(packing, STOP).point
    assert point is not None
    assert (point.prices <= packing.cost + 1e-9).all()


@pytest.mark.parametrize("seed", range(3))
def test_offers_that_others_replace_are_not_needed(seed):
    packing = many_offers(seed, offers=14)
    twice = replace(packing, cost=np.where(np.arange(14) % 2, packing.cost[0], packing.cost))
    out = replaced(twice)
    assert 0 < out.sum() < 14
    without = replace(twice, upper=np.where(out, 0.0, np.inf))
    assert solve(without, STOP).value == pytest.approx(solve(twice, STOP).value, rel=1e-6)


def test_an_offer_that_a_limit_counts_more_replaces_none():
    load = np.array([[0.5], [0.5]])
    packing = BinPacking.of(np.array([1.0, 2.0]), load, np.array([3]), fractional=True)
    assert replaced(packing).tolist() == [False, True]
    scarce = replace(packing, limit_matrix=np.array([[1.0, 0.0]]), limit=np.ones(1))
    assert not replaced(scarce).any()


def test_bins_earn_on_the_best_classes_first_and_on_no_more_than_there_is():
    rates, prices = np.array([[4.0, 1.0, 0.0]]), np.array([1.0, 2.0, 9.0])
    assert earned(rates, np.array([2.0, 5.0, 5.0]), prices)[0] == pytest.approx(0.5 * 4.0 + 0.5 * 2.0)
    assert earned(rates, np.full(3, np.inf), prices, np.array([3.0]))[0] == pytest.approx(3 * 4.0)

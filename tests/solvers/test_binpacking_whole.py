"""Whole items into given rooms: how many packings there are, laying them class by class, proving that none fits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers.binpacking import BinPacking
from shardwright.solvers.binpacking.beam import NARROW, Beam, _highest, _shares, lay
from shardwright.solvers.binpacking.counting import count
from shardwright.solvers.binpacking.exact import pack_exactly
from shardwright.solvers.binpacking.meeting import decide
from shardwright.solvers.binpacking.rounding import Effort, fit


def every_load(load, items, room):
    """What each packing that fits loads, found class by class."""
    loads = np.zeros((1, len(load)))
    for cls, number in enumerate(items):
        ways = _shares(int(number), len(load))
        able = np.where(np.isfinite(load[:, cls]), load[:, cls], 0.0)
        ways = ways[~(ways > 0)[:, ~np.isfinite(load[:, cls])].any(1)]
        loads = (loads[:, None] + (ways * able)[None]).reshape(-1, len(load))
        loads = loads[(loads <= room * (1 + 1e-9)).all(1)]
    return loads


@st.composite
def tight_rooms(draw):
    """Rooms that a random packing fills, or a little smaller ones."""
    profiles, classes = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    items = rng.integers(1, 4, classes)
    load = np.round(rng.uniform(0.1, 1.0, (profiles, classes)), draw(st.sampled_from([1, 6])))
    load[1:][rng.random((profiles - 1, classes)) < draw(st.sampled_from([0.0, 0.2]))] = np.inf
    packing = np.zeros((profiles, classes))
    for cls, number in enumerate(items):
        for _ in range(number):
            packing[(load[:, cls] * rng.uniform(0.6, 1.4, profiles)).argmin(), cls] += 1
    room = (packing * np.where(np.isfinite(load), load, 0.0)).sum(1)
    return load, room * draw(st.sampled_from([1.0, 0.98, 0.9])), items


def by_price_rooms(profiles, classes, number, seed, spare):
    """Priced loads that differ by 15 % either way, and rooms that divisible items leave a share `spare` of."""
    rng = np.random.default_rng(seed)
    load = rng.dirichlet(np.ones(classes)) * rng.uniform(0.85, 1.15, (profiles, classes)) / number
    items = np.full(classes, number)
    room = np.zeros(profiles)
    for cls in range(classes):
        first, second = np.argsort(load[:, cls])[:2]
        taken = rng.integers(0, number)
        room[first] += (number - taken) * load[first, cls]
        room[second] += taken * load[second, cls]
    problem = BinPacking.of(room, load / room[:, None], items)
    slack = fit(problem, np.ones(profiles), rng, Effort.RELAX).slack
    return load, room * (1 - slack) / (1 - spare), items


def fits(load, room, items, packing):
    used = np.where(packing > 0, packing, 0.0) * np.where(packing > 0, load, 0.0)
    return (packing.sum(0) == items).all() and (packing >= 0).all() and (used.sum(1) <= room * (1 + 1e-9)).all()


@settings(derandomize=True, max_examples=150, deadline=None)
@given(tight_rooms())
def test_listing_what_is_affordable_decides_as_brute_force_does(rooms):
    load, room, items = rooms
    verdict = decide(load, room, items)
    assert verdict.proven
    assert (verdict.packing is not None) == (len(every_load(load, items, room)) > 0)
    assert verdict.packing is None or fits(load, room, items, verdict.packing)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(tight_rooms(), st.integers(0, 2**32 - 1))
def test_any_units_of_load_decide_the_same(rooms, seed):
    load, room, items = rooms
    price = np.random.default_rng(seed).uniform(0.1, 3.0, len(room))
    found = decide(price[:, None] * load, price * room, items)
    assert (found.packing is None) == (decide(load, room, items).packing is None)


def test_a_fleet_that_whole_items_miss_by_a_ten_thousandth_is_proven_not_to_hold_them():
    load, room, items = by_price_rooms(4, 30, 6, seed=0, spare=3e-5)
    problem = BinPacking.of(room, load / room[:, None], items)
    relaxed = fit(problem, np.ones(4), np.random.default_rng(0), Effort.RELAX)
    assert not relaxed.impossible
    answer = pack_exactly(problem, np.ones(4), relaxed.prices, nodes=1)
    assert answer.proven
    assert answer.packing is None


def test_too_much_to_list_is_left_undecided():
    load, room, items = by_price_rooms(6, 60, 8, seed=0, spare=1e-2)
    verdict = decide(load, room, items)
    assert verdict.packing is None
    assert not verdict.proven


@pytest.mark.parametrize("seed", range(4))
def test_the_number_of_packings_is_about_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    load, items = rng.uniform(0.2, 1.0, (3, 7)), rng.integers(2, 4, 7)
    room = np.full(3, 1.25 * float(items @ load.min(0)) / 3)
    exact = len(every_load(load, items, room))
    assert exact > 50
    spare = float(room.sum() - items @ load.min(0))
    counted = count(load, room, items, spare)
    assert counted.log == pytest.approx(math.log(exact), abs=0.6)


def test_means_and_covariances_are_those_of_the_tilted_distribution():
    rng = np.random.default_rng(0)
    load, items = rng.uniform(0.2, 1.0, (3, 4)), np.array([1, 2, 3, 3])
    load[2, 1] = np.inf
    counted = count(load, np.full(3, 1.4), items, 0.5)
    for cls, number in enumerate(items):
        ways = np.array([x for x in itertools.product(range(number + 1), repeat=3) if sum(x) == number], float)
        ways = ways[~(ways > 0)[:, ~np.isfinite(load[:, cls])].any(1)]
        loads = ways * np.where(np.isfinite(load[:, cls]), load[:, cls], 0.0)
        share = np.exp(-loads @ counted.weight)
        share /= share.sum()
        mean = share @ loads
        assert counted.mean[:, cls] == pytest.approx(mean)
        spread = loads.T @ (share[:, None] * loads) - np.outer(mean, mean)
        assert counted.covariance[cls] == pytest.approx(spread, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_laying_class_by_class_leaves_a_few_ten_thousandths_of_the_room(seed):
    load, room, items = by_price_rooms(8, 100, 4, seed, spare=4e-4)
    rng = np.random.default_rng(0)
    counted = count(load, room, items, 4e-4 * float(room.sum()))
    packing = lay(load, room, items, counted, NARROW, rng)
    assert packing is not None
    assert fits(load, room, items, packing)
    problem = BinPacking.of(room, load / room[:, None], items)
    assert fit(problem, np.ones(8), rng, Effort.ROUND).packing is None
    assert fit(problem, np.ones(8), rng).packing is not None


@settings(derandomize=True, max_examples=60, deadline=None)
@given(tight_rooms())
def test_what_is_laid_fits(rooms):
    load, room, items = rooms
    spare = float(room.sum() - items @ load.min(0))
    counted = count(load, room, items, spare) if spare > 1e-6 else None
    if counted is None:
        return
    packing = lay(load, room, items, counted, Beam(50, 8, 100, 16, 2), np.random.default_rng(0))
    assert packing is None or fits(load, room, items, packing)


def test_about_the_highest_scores_are_kept():
    rng = np.random.default_rng(0)
    score = rng.standard_normal(100_000)
    kept = _highest(score, 1_000)
    assert 500 <= len(kept) <= 1_000
    assert len(np.unique(kept)) == len(kept)
    assert np.median(score[kept]) >= np.partition(score, -1_000)[-1_000]
    assert sorted(_highest(score[:500], 1_000)) == list(range(500))

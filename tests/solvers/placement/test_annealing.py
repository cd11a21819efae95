"""Annealing: costs kept up to date as slots move, exchanges that keep every slot, and small problems side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shardwright.solvers.placement import Schedule, SlotPlacement, anneal, one_copy_each, packed, value_of
from shardwright.solvers.placement.marginal import MarginalCost
from shardwright.solvers.placement.slots import follow
from shardwright.solvers.placement.stacking import stacked, stacked_placement

from .instances import flowing
from .test_bounds import TWO_NODES

ONE_WAY = TWO_NODES + np.triu(TWO_NODES, 1) * 0.5


@pytest.mark.parametrize("layers", [2, 5, 6])
def test_the_cost_of_a_slot_elsewhere_is_what_the_whole_placement_then_costs(layers):
    problem = flowing(0, layers, 8, ONE_WAY)
    owner = one_copy_each(problem)
    rng = np.random.default_rng(1)
    device = np.stack([rng.permutation(row) for row in packed(problem, 0).device])
    cost = MarginalCost(problem.link_cost, device.copy(), 0.0)
    cost.follow(follow(problem, SlotPlacement(owner, device)))
    for turn in range(40):
        parity = turn % 2
        table = cost.of(parity, device)
        layer = int(rng.choice(np.arange(parity, layers, 2))) if parity < layers else 0
        if parity < layers:
            slot, there = int(rng.integers(8)), int(rng.integers(4))
            moved = device.copy()
            moved[layer, slot] = there
            now = value_of(problem, SlotPlacement(owner, device)).traffic
            then = value_of(problem, SlotPlacement(owner, moved)).traffic
            row = table[layer // 2, :, slot]
            expected = (then - now) * max(1, layers - 1)
            assert row[there] - row[device[layer, slot]] == pytest.approx(expected, abs=1e-4)
            device[layer] = rng.permutation(device[layer])


@pytest.mark.parametrize("spare", [0, 4])
def test_every_device_keeps_its_number_of_slots_and_no_two_copies_meet(spare):
    problem = replace(flowing(2, 5, 8, TWO_NODES, load_weight=1.0), slots=np.full(4, 2 + spare // 4))
    start = packed(problem, spare)
    found = anneal(problem, start, Schedule(rounds=20, polish=5)).placement
    for row, owners in zip(found.device, found.owner, strict=True):
        assert np.bincount(row, minlength=4).tolist() == problem.slots.tolist()
        pairs = [(item, device) for item, device in zip(owners, row, strict=True) if item >= 0]
        assert len(set(pairs)) == len(pairs)


def test_polishing_alone_never_costs_anything():
    problem = flowing(3, 6, 16, TWO_NODES, load_weight=2.0)
    start = packed(problem, 0)
    for seed in range(3):
        found = anneal(problem, start, Schedule(rounds=0, polish=10, seed=seed)).placement
        assert value_of(problem, found).value <= value_of(problem, start).value + 1e-9


def test_a_price_on_moving_keeps_slots_where_they_are():
    problem = flowing(4, 4, 8, TWO_NODES)
    start = packed(problem, 0)
    moved = [
        int((anneal(problem, start, Schedule(stay=stay)).placement.device != start.device).sum()) for stay in (0.0, 9.0)
    ]
    assert moved[0] > 0 == moved[1]


def test_problems_side_by_side_cost_what_each_costs_alone():
    problem = flowing(5, 4, 8, TWO_NODES, load_weight=3.0)
    start = packed(problem, 0)
    alone = value_of(problem, start)
    three = value_of(stacked(problem, 3), stacked_placement(start, 3))
    assert three.traffic * 11 == pytest.approx(3 * alone.traffic * 3)
    assert three.value / alone.value == pytest.approx(9 / 11, rel=1e-6)

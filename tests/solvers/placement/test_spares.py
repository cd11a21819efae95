"""Copies with traffic: never a worse plan than without them, and bounds below whatever copies do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shardwright.solvers.placement import Effort, PlacementProblem, SlotPlacement, floor, packed, place, value_of
from shardwright.solvers.placement.certificate import certify
from shardwright.solvers.placement.spares import filled, with_empty

from .instances import flowing
from .test_bounds import TWO_NODES

LITTLE = Effort(work=100_000, exact=False)


def roomy(seed: int) -> PlacementProblem:
    """Eight items in twelve slots."""
    return flowing(seed, 4, 8, TWO_NODES, load_weight=1.0, slots=np.full(4, 3))


@pytest.mark.parametrize("seed", range(4))
def test_a_placement_with_copies_is_never_worse_than_the_one_without_that_it_began_with(seed):
    problem = roomy(seed)
    part = replace(LITTLE, work=LITTLE.work // 3)
    alone = place(replace(problem, slots=np.full(4, 2)), effort=part)
    assert place(problem, 4, LITTLE).value <= alone.value + 1e-9


def test_where_copies_can_only_harm_there_are_none():
    flow = np.zeros((2, 4, 4))
    flow[:, range(4), range(4)] = 0.25
    loads = np.full((1, 3, 4), 0.25)
    apart = 1.0 - np.eye(4)
    problem = PlacementProblem(loads, apart, np.full(4, 2), flow, load_weight=5.0)
    assert place(problem, 4, LITTLE).value == pytest.approx(5.0)


@pytest.mark.parametrize("seed", range(4))
def test_bounds_with_copies_are_below_any_placement_of_copies(seed):
    problem = roomy(seed)
    least = max(certify(problem, 4).value, floor(problem, 4).value)
    random = np.random.default_rng(seed)
    for _ in range(10):
        one = packed(replace(problem, slots=np.full(4, 2)), 0)
        shuffled = SlotPlacement(one.owner, np.stack([random.permutation(row) for row in one.device]))
        copied = filled(problem, with_empty(shuffled, problem.slots), 4)
        assert least <= value_of(problem, copied).value + 1e-9


def test_empty_slots_are_named_and_filled_by_the_heaviest_items_a_device_lacks():
    problem = roomy(0)
    named = with_empty(packed(replace(problem, slots=np.full(4, 2)), 0), problem.slots)
    assert named.owner.shape == (4, 12)
    full = filled(problem, named, 4)
    for row, device in zip(full.owner, full.device, strict=True):
        assert np.bincount(device, minlength=4).tolist() == [3, 3, 3, 3]
        pairs = list(zip(row.tolist(), device.tolist(), strict=True))
        assert -1 not in row and len(set(pairs)) == 12

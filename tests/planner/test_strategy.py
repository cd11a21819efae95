from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.planner.errors import InputError
from shardwright.planner.strategy import Constraints, Strategy

AXES = ("tp", "cp", "dp_shard", "dp_replicate", "pp", "ep", "etp", "edp")
DEGREE = st.integers(1, 4)


@settings(derandomize=True, max_examples=60)
@given(DEGREE, DEGREE, DEGREE, DEGREE, DEGREE)
def test_every_axis_puts_every_rank_in_one_group(tp, cp, dp_shard, dp_replicate, pp):
    inner = tp * cp * dp_shard * dp_replicate
    ep = max(d for d in range(1, inner + 1) if inner % d == 0 and d <= 4)
    strategy = Strategy(tp=tp, cp=cp, dp_shard=dp_shard, dp_replicate=dp_replicate, pp=pp, ep=ep)
    for axis in AXES:
        groups = strategy.rank_groups(axis)
        assert groups.shape[1] == getattr(strategy, axis)
        assert np.array_equal(np.sort(groups, axis=None), np.arange(strategy.world_size))


def test_tensor_ranks_are_neighbours_and_pipeline_ranks_farthest():
    strategy = Strategy(tp=2, sp=True, dp_shard=2, pp=2)
    assert strategy.rank_groups("tp").tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert strategy.rank_groups("dp_shard").tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert strategy.rank_groups("pp").tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"tp": 0}, "strategy.tp must be at least 1 but got 0"),
        ({"zero": 4}, "strategy.zero must be 0, 1, 2 or 3"),
        ({"sp": True}, "needs tp of at least 2"),
        ({"vpp": 2}, "needs pp of at least 2"),
        ({"schedule": "interleaved", "pp": 2}, "needs vpp of at least 2"),
        ({"ep": 3, "dp_shard": 2}, "must divide"),
        ({"recompute_layers": 2}, "needs recompute full"),
        ({"recompute_modules": ("norm",)}, "needs recompute selective"),
        ({"stage_layers": (1, 2)}, "must give 1 counts"),
    ],
)
def test_contradicting_degrees_are_refused(fields, complaint):
    with pytest.raises(InputError, match=complaint):
        Strategy(**fields)


def test_virtual_stages_mean_interleaving():
    assert Strategy(pp=2, vpp=2).schedule == "interleaved"


def test_micro_batches_must_divide_the_batch():
    assert Strategy(dp_shard=2, mbs=2).microbatches(16) == 4
    with pytest.raises(InputError, match="gbs 9 must be a multiple of mbs × dp = 2 × 2 = 4"):
        Strategy(dp_shard=2, mbs=2).microbatches(9)


def test_the_label_names_what_differs_from_one():
    strategy = Strategy(tp=8, sp=True, pp=4, vpp=5, dp_shard=2, recompute="full", recompute_layers=2)
    assert strategy.label() == "tp8 sp pp4 vpp5 dp2 zero1 mbs1 recompute:full:2"


def test_constraints_refuse_what_no_degree_can_be():
    with pytest.raises(InputError, match=r"constraints\.tp must be at least 1 but got 0"):
        Constraints(tp=(0,))

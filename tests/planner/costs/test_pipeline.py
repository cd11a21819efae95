from __future__ import annotations

import numpy as np
import pytest

from shardwright.planner.costs.pipeline import PipelineLoad, pipeline_time
from shardwright.planner.strategy import SCHEDULES
from shardwright.planner.workload.strategy_table import table_of_columns


def seconds(schedule, pp, microbatches, *, vpp=1, stage=3.0, weight=1.0, hop=0.0, exposed=0.0):
    table = table_of_columns({"pp": pp, "vpp": vpp, "schedule": SCHEDULES.index(schedule)}, 1)
    load = PipelineLoad(
        stage_s=np.array([stage]),
        stage_weight_s=np.array([weight]),
        total_s=np.array([stage * pp]),
        total_weight_s=np.array([weight * pp]),
        hops_s=np.array([hop * (pp - 1)]),
        hop_exposed_s=np.array([exposed]),
    )
    return float(pipeline_time(table, np.array([microbatches]), load).seconds[0])


def test_one_stage_has_no_bubble():
    assert seconds("1f1b", 1, 5) == 15.0


def test_1f1b_and_gpipe_fill_and_drain_once():
    assert seconds("1f1b", 4, 8) == seconds("gpipe", 4, 8) == (8 + 3) * 3.0


def test_interleaving_divides_the_fill_by_vpp():
    assert seconds("interleaved", 4, 8, vpp=3) == 8 * 3.0 + 3 * 3.0 / 3


def test_zero_bubble_fills_with_weight_gradients():
    assert seconds("zb-h1", 4, 8) == 8 * 3.0 + 3 * (3.0 - 2 * 1.0)


def test_a_slow_round_trip_is_paid_once_per_pp_micro_batches():
    quick, slow = seconds("1f1b", 4, 8, hop=0.0), seconds("1f1b", 4, 8, hop=0.5)
    round_trip = 2 * 3 * 0.5
    assert slow - quick == pytest.approx(round_trip * (1 + 7 // 4))


def test_gpipe_pays_a_slow_hop_once():
    assert seconds("gpipe", 4, 8, hop=0.5) - seconds("gpipe", 4, 8) == pytest.approx(2 * 3 * 0.5)


def test_exposed_sends_lengthen_every_micro_batch():
    assert seconds("1f1b", 2, 9, exposed=0.1) - seconds("1f1b", 2, 9) == pytest.approx(8 * 0.1)

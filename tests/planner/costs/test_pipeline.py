from __future__ import annotations

import numpy as np
import pytest

from shardwright.models import model
from shardwright.planner.costs.pipeline import PipelineLoad, pipeline_time
from shardwright.planner.costs.schedules import BoundaryTimes, StageTimes, compile_schedule, walk
from shardwright.planner.costs.stages import chain, layers_by_layout, placed, unevenness
from shardwright.planner.strategy import SCHEDULES
from shardwright.planner.workload.strategy_table import BALANCED, table_of_columns


def seconds(schedule, pp, microbatches, *, vpp=1, stage=3.0, weight=1.0, hop=0.0, exposed=0.0):
    table = table_of_columns({"pp": pp, "vpp": vpp, "schedule": SCHEDULES.index(schedule)}, 1)
    load = PipelineLoad(
        stage_s=np.array([stage]),
        stage_forward_s=np.array([stage / 3]),
        stage_weight_s=np.array([weight]),
        total_s=np.array([stage * pp]),
        hop_s=np.array([hop]),
        hops_s=np.array([hop * (pp - 1)]),
        hop_exposed_s=np.array([exposed]),
        uneven=np.zeros(1),
    )
    return float(pipeline_time(table, np.array([microbatches]), load).seconds[0])


def walked(schedule, pp, microbatches, *, vpp=1, stage=3.0, weight=1.0, hop=0.0):
    pieces = 2 if schedule == "zb-v" else vpp
    stages = 2 * pp if schedule == "dualpipe" else pp * pieces
    forward = np.full(stages, stage / 3 / pieces)
    backward = np.full(stages, (stage * 2 / 3 - weight) / pieces)
    between = np.full(stages - 1, hop)
    if schedule == "zb-v":
        between[pp - 1] = 0.0
    times = StageTimes(forward, backward, np.full(stages, weight / pieces))
    program = compile_schedule(schedule, pp, microbatches, vpp)
    return float(walk(program, times, BoundaryTimes(between, between)).makespan_s)


@pytest.mark.parametrize(
    ("schedule", "vpp"),
    [("1f1b", 1), ("gpipe", 1), ("interleaved", 2), ("interleaved", 3), ("zb-h1", 1), ("zb-v", 1), ("dualpipe", 1)],
)
@pytest.mark.parametrize(("pp", "microbatches"), [(2, 4), (4, 8), (4, 20), (8, 16)])
@pytest.mark.parametrize("hop", [0.0, 0.1])
def test_equal_stages_take_what_the_event_walk_takes(schedule, vpp, pp, microbatches, hop):
    expected = walked(schedule, pp, microbatches, vpp=vpp, hop=hop)
    assert seconds(schedule, pp, microbatches, vpp=vpp, hop=hop) == pytest.approx(expected)


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
    assert slow - quick == pytest.approx(round_trip * (1 + 1 + 2 / 3))


def test_gpipe_pays_a_slow_hop_once():
    assert seconds("gpipe", 4, 8, hop=0.5) - seconds("gpipe", 4, 8) == pytest.approx(2 * 3 * 0.5)


def test_exposed_sends_lengthen_every_micro_batch():
    assert seconds("1f1b", 2, 9, exposed=0.1) - seconds("1f1b", 2, 9) == pytest.approx(8 * 0.1)


@pytest.mark.parametrize("name", ["qwen3-235b-a22b", "llama-3.1-8b"])
@pytest.mark.parametrize(("pp", "vpp"), [(2, 3), (2, 12), (4, 3), (4, 5), (8, 2), (8, 4)])
def test_uneven_virtual_stages_take_what_the_event_walk_takes(name, pp, vpp):
    """On models that the share of uneven rounds was not fitted on."""
    model_chain, microbatches = chain(model(name), 4096), 4 * pp
    layers = layers_by_layout(model_chain, "interleaved", pp, vpp, BALANCED)
    load = layers.astype(float)
    load[-1] += float(model_chain.last @ model_chain.weight)
    walked = walk(compile_schedule("interleaved", pp, microbatches, vpp), StageTimes(load, load, load)).makespan_s
    ranks = 3 * placed(load, "interleaved", pp).sum(axis=0)
    alike = microbatches * ranks.max() + (ranks.sum() - ranks.max()) / vpp
    share = float(unevenness(model_chain, layers, pp, np.ones(pp)))
    predicted = alike + share * microbatches * ranks.max()
    assert predicted == pytest.approx(walked, rel=0.06)


def test_equal_virtual_stages_wait_for_none():
    model_chain = chain(model("llama-3.1-8b"), 4096)
    layers = np.array([4, 4, 4, 4, 4, 4, 4, 4])
    model_chain.last[:] = 0
    assert unevenness(model_chain, layers, 4, np.ones(4)) == 0.0

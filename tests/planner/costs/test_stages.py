from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.models import model
from shardwright.planner.costs.schedules import chunks_in_flight
from shardwright.planner.costs.stages import (
    Pipelines,
    block_sums,
    chain,
    layers_by_layout,
    layouts_of,
    live_microbatches,
    pipeline_stages,
)
from shardwright.planner.strategy import SCHEDULES
from shardwright.planner.workload.strategy_table import BALANCED, EVEN, table_of_columns

LLAMA = chain(model("llama-3.1-405b"), 8192)
LONE = st.sampled_from(["1f1b", "gpipe", "zb-h1", "zb-v", "dualpipe"])
DEEPSEEK = chain(model("deepseek-v3"), 4096)


def test_126_layers_on_16_ranks_and_8_chunks_leave_the_ends_to_embedding_and_head():
    layers = layers_by_layout(LLAMA, "interleaved", 16, 8, BALANCED)
    assert layers.sum() == 126
    assert (layers[0], layers[-1]) == (0, 0)
    assert np.all(layers[1:-1] == 1)


def test_the_head_takes_the_place_of_a_layer_where_layers_do_not_divide():
    layers = layers_by_layout(LLAMA, "1f1b", 4, 1, BALANCED)
    assert layers.tolist() == [31, 32, 32, 31]


def test_a_heavy_head_leaves_its_own_virtual_stage_fewer_layers_than_its_ranks_others():
    layers = layers_by_layout(DEEPSEEK, "interleaved", 8, 2, BALANCED)
    assert layers.tolist() == [4] * 15 + [1]


def test_even_layouts_are_offered_only_where_layers_divide():
    assert EVEN in layouts_of(LLAMA, "interleaved", 6, 3)
    assert layouts_of(LLAMA, "1f1b", 4, 1) == (BALANCED,)


@settings(derandomize=True, max_examples=100)
@given(st.sampled_from([LLAMA, DEEPSEEK]), st.integers(1, 16), st.integers(1, 4), st.integers(0, 5), LONE)
def test_no_block_is_lost_or_doubled(model_chain, pp, vpp, recomputed, lone):
    schedule = "interleaved" if vpp > 1 else lone
    layers = layers_by_layout(model_chain, schedule, pp, vpp, BALANCED)
    live = live_microbatches(schedule, pp, vpp, 64)
    count, again, _, _ = pipeline_stages(model_chain, block_sums(model_chain), layers, schedule, live, recomputed)
    copies = 2 if schedule == "dualpipe" else 1
    everything = np.bincount(model_chain.layers, minlength=len(model_chain.blocks)).astype(float)
    everything += model_chain.first + model_chain.last
    assert np.allclose(count.sum(axis=0), copies * everything)
    assert np.all(again <= count)
    assert again.sum() == copies * np.minimum(layers, recomputed).sum()


def test_1f1b_keeps_pp_minus_rank_micro_batches():
    assert live_microbatches("1f1b", 4, 1, 8).tolist() == [[4, 3, 2, 1]]
    assert live_microbatches("1f1b", 4, 1, 2).tolist() == [[2, 2, 2, 1]]


def test_gpipe_keeps_every_micro_batch():
    assert live_microbatches("gpipe", 3, 1, 7).tolist() == [[7, 7, 7]]


def test_interleaving_keeps_narayanans_number_of_chunks():
    live = live_microbatches("interleaved", 4, 2, 8)
    assert live.sum(axis=0).tolist() == [2 * 3 + 4 + 1, 2 * 2 + 4 + 1, 2 + 4 + 1, 4 + 1]
    assert live[1, 3] == 1


def test_only_stages_that_can_be_worst_are_kept_and_none_that_can_is_lost():
    table = table_of_columns({"pp": 16, "layout": BALANCED}, 1)
    kept, _ = Pipelines(DEEPSEEK).of(table, np.array([32]))
    every, _ = Pipelines(DEEPSEEK).of(table, np.array([32]), every=True)
    assert kept.count.shape[1] < 6
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.random((2, len(DEEPSEEK.blocks)))
        worst = (every.count @ a + every.live @ b).max()
        assert (kept.count @ a + kept.live @ b).max() == pytest.approx(worst)
    assert np.allclose(kept.total, every.total)


def test_a_v_of_stages_puts_the_embedding_and_the_head_on_one_rank():
    table = table_of_columns({"pp": 4, "schedule": SCHEDULES.index("zb-v"), "layout": BALANCED}, 1)
    stages, _ = Pipelines(LLAMA).of(table, np.array([32]), every=True)
    names = [block.role for block in LLAMA.blocks]
    assert stages.count[0, 0, names.index("embedding")] == stages.count[0, 0, names.index("head")] == 1
    assert np.ptp(stages.live[0, :, names.index("layer")]) <= 32


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "zb-v", "dualpipe", "gpipe"])
@pytest.mark.parametrize(("pp", "microbatches"), [(4, 8), (2, 12), (8, 16)])
def test_micro_batches_alive_are_the_walks(schedule, pp, microbatches):
    live = live_microbatches(schedule, pp, 1, microbatches).sum(axis=0)
    ranks = np.arange(pp)
    expected = chunks_in_flight(schedule, ranks, pp, microbatches, until_weight_gradient=schedule == "zb-h1")
    assert live.tolist() == expected.tolist()

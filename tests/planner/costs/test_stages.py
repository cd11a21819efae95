from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.models import model
from shardwright.planner.costs.stages import (
    chain,
    chunk_layers,
    layouts_of,
    live_microbatches,
    pipeline_stages,
    stage_table,
)
from shardwright.planner.workload.strategy_table import BALANCED, EVEN, table_of_columns

LLAMA = chain(model("llama-3.1-405b"), 8192)
DEEPSEEK = chain(model("deepseek-v3"), 4096)


def test_126_layers_on_16_ranks_and_8_chunks_leave_the_ends_to_embedding_and_head():
    layers = chunk_layers(LLAMA, 16, 8, BALANCED)
    assert layers.sum() == 126
    assert (layers[0], layers[-1]) == (0, 0)
    assert np.all(layers[1:-1] == 1)


def test_the_head_takes_the_place_of_a_layer_where_layers_do_not_divide():
    layers = chunk_layers(LLAMA, 4, 1, BALANCED)
    assert layers.tolist() == [31, 32, 32, 31]


def test_even_layouts_are_offered_only_where_layers_divide():
    assert EVEN in layouts_of(LLAMA, 6, 3)
    assert layouts_of(LLAMA, 4, 1) == (BALANCED,)


@settings(derandomize=True, max_examples=100)
@given(st.sampled_from([LLAMA, DEEPSEEK]), st.integers(1, 16), st.integers(1, 4), st.integers(0, 5))
def test_no_block_is_lost_or_doubled(model_chain, pp, vpp, recomputed):
    layers = chunk_layers(model_chain, pp, vpp, BALANCED)
    live = live_microbatches("interleaved" if vpp > 1 else "1f1b", pp, vpp, 64)
    count, again, _, _ = pipeline_stages(model_chain, layers, live, recomputed)
    everything = np.bincount(model_chain.layers, minlength=len(model_chain.blocks)).astype(float)
    everything += model_chain.first + model_chain.last
    assert np.allclose(count.sum(axis=0), everything)
    assert np.all(again <= count)
    assert again.sum() == np.minimum(layers, recomputed).sum()


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
    kept, _ = stage_table(DEEPSEEK, table, np.array([32]))
    every, _ = stage_table(DEEPSEEK, table, np.array([32]), every=True)
    assert kept.count.shape[1] < 6
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.random((2, len(DEEPSEEK.blocks)))
        worst = (every.count @ a + every.live @ b).max()
        assert (kept.count @ a + kept.live @ b).max() == pytest.approx(worst)
    assert np.allclose(kept.total, every.total)

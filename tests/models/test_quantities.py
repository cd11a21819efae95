"""Quantities of whole models against hand formulas, published equations, and properties that must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.models import (
    Attention,
    Embedding,
    ModelError,
    Scan,
    TransformerShape,
    activation_bytes_per_token,
    active_parameters,
    block_activation_bytes_per_token,
    block_flops_per_token,
    cross_kv_bytes_per_token,
    flops_per_token,
    kv_bytes_per_token,
    list_models,
    model,
    parameters,
    read_config,
    state_bytes_per_sequence,
    transformer,
)

from .variants import VARIANTS

SHAPES = st.builds(
    lambda layers, head_dim, kv_heads, groups, gated, experts: TransformerShape(
        layers=layers,
        hidden=64,
        heads=kv_heads * groups,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=96,
        vocab=320,
        gated=gated,
        experts=experts,
        topk=min(2, experts),
        moe_ffn=32 if experts else 0,
    ),
    layers=st.integers(1, 12),
    head_dim=st.sampled_from([8, 16]),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    groups=st.sampled_from([1, 2, 4]),
    gated=st.booleans(),
    experts=st.sampled_from([0, 4]),
)
PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)


@PROPERTY
@given(shape=SHAPES, dtype_bytes=st.sampled_from([0.5, 1, 2]))
def test_kv_bytes_follow_kv_heads(shape, dtype_bytes):
    expected = 2 * shape.layers * shape.kv_heads * shape.head_dim * dtype_bytes
    assert kv_bytes_per_token(transformer(shape), dtype_bytes=dtype_bytes) == expected


@PROPERTY
@given(shape=SHAPES, tp=st.integers(1, 16), more=st.integers(1, 16))
def test_more_tp_never_raises_the_kv_of_a_rank_nor_falls_below_one_head(shape, tp, more):
    graph = transformer(shape)
    here, there = kv_bytes_per_token(graph, tp=tp), kv_bytes_per_token(graph, tp=tp + more)
    assert there <= here
    assert there >= 2 * shape.layers * shape.head_dim * 2
    assert here * tp >= kv_bytes_per_token(graph)


@PROPERTY
@given(shape=SHAPES, pp=st.integers(1, 12), cp=st.integers(1, 8))
def test_stages_and_context_ranks_together_hold_the_whole_cache(shape, pp, cp):
    graph = transformer(shape)
    if pp > shape.layers:
        with pytest.raises(ModelError, match=f"pp must be at most the {shape.layers} layers"):
            kv_bytes_per_token(graph, pp=pp)
        return
    held = kv_bytes_per_token(graph, pp=pp, cp=cp)
    assert held == pytest.approx(kv_bytes_per_token(graph) * -(-shape.layers // pp) / shape.layers / cp)


@PROPERTY
@given(shape=SHAPES, sequence=st.integers(1, 200))
def test_flops_are_twice_the_active_matrices_plus_attention(shape, sequence):
    graph = transformer(shape)
    norms = 2 * 2 * shape.hidden * shape.layers + 2 * shape.hidden
    attention = shape.layers * 4 * shape.heads * shape.head_dim * (sequence + 1) / 2
    expected = 2 * (active_parameters(graph) - norms) + attention
    assert flops_per_token(graph, sequence) == pytest.approx(expected)


@pytest.mark.parametrize("name", list_models())
def test_what_a_catalog_model_needs_is_consistent(name):
    graph = model(name)
    assert parameters(graph) == sum(run.repeat * run.block.parameters for run in graph.runs if run.block.role != "mtp")
    assert active_parameters(graph) <= parameters(graph)
    assert parameters(graph) <= parameters(graph, mtp=True)
    assert active_parameters(graph) <= active_parameters(graph, mtp=True)
    forward, backward = flops_per_token(graph, 4096), flops_per_token(graph, 4096, direction="backward")
    assert backward == 2 * forward
    assert flops_per_token(graph, 4096, direction="both") == 3 * forward
    assert 1.8 * active_parameters(graph) < forward < 4 * active_parameters(graph)
    assert kv_bytes_per_token(graph, context=100_000) <= kv_bytes_per_token(graph)
    assert graph.num_layers == len(graph.layer_blocks())
    cached = [
        op for block in graph.blocks for op in block.operators if isinstance(op, Attention) and op.cached_elements
    ]
    assert bool(cached) == (kv_bytes_per_token(graph) > 0)
    scans = [op for block in graph.blocks for op in block.operators if isinstance(op, Scan)]
    assert bool(scans) == (state_bytes_per_sequence(graph) > 0)


def test_the_flops_of_gpt3_are_those_of_narayanan_equation_3_with_a_causal_half():
    layers, hidden, vocab, sequence = 96, 12288, 51200, 2048
    expected = 24 * layers * hidden**2 + 2 * hidden * vocab + 4 * layers * hidden * (sequence + 1) / 2
    assert flops_per_token(model("gpt3-175b"), sequence) == expected


@pytest.mark.parametrize(("tp", "sp", "factor"), [(1, False, 32), (8, False, 8 + 24 / 8), (8, True, 32 / 8)])
def test_activations_of_a_layer_are_those_of_korthikanti_table_2_without_dropout(tp, sp, factor):
    """34 s b h, of which dropout masks are 2; (10 + 24/t) with tp, of which 2; 34/t with sp, of which 2/t."""
    hidden = 12288
    layer = model("gpt3-175b").layer_blocks()[0]
    assert block_activation_bytes_per_token(layer, tp=tp, sp=sp) == factor * hidden


def test_unfused_attention_keeps_its_scores_unless_they_are_recomputed():
    layer, heads, sequence = model("gpt3-175b").layer_blocks()[0], 96, 2048
    fused = block_activation_bytes_per_token(layer)
    assert block_activation_bytes_per_token(layer, score_sequence=sequence) == fused + 5 * heads * sequence
    assert block_activation_bytes_per_token(layer, score_sequence=sequence, recompute="selective") == fused


def test_full_recompute_keeps_the_input_of_each_layer_only():
    graph, hidden = model("gpt3-175b"), 12288
    layer = graph.layer_blocks()[0]
    assert block_activation_bytes_per_token(layer, recompute="full") == 2 * hidden
    assert block_activation_bytes_per_token(layer, recompute="full", tp=4, sp=True) == 2 * hidden / 4
    head = 2 * 2 * hidden
    assert activation_bytes_per_token(graph, recompute="full") == 96 * 2 * hidden + head


@pytest.mark.parametrize("name", list_models())
def test_recompute_sequence_parallelism_and_tp_never_raise_activations(name):
    graph = model(name)
    kept = [activation_bytes_per_token(graph, tp=8, sp=True, recompute=how) for how in ("full", "selective", "none")]
    assert kept == sorted(kept)
    assert kept[2] <= activation_bytes_per_token(graph, tp=8) <= activation_bytes_per_token(graph)
    blocks = sum(
        block_activation_bytes_per_token(run.block) * run.repeat for run in graph.runs if run.block.role != "mtp"
    )
    assert activation_bytes_per_token(graph) == blocks


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("llama-3.1-405b", 516_096),
        ("deepseek-v3", 61 * (512 + 64) * 2),  # arXiv 2505.09343, table 1: 70.272 KB
        ("qwen2.5-72b", 327_680),
        ("falcon-7b", 32 * 2 * 64 * 2),
        ("jamba-v0.1", 4 * 2 * 8 * 128 * 2),  # 4 GB at 256K tokens, arXiv 2403.19887, table 1
        ("bert-large", 0),
    ],
)
def test_kv_bytes_per_token_of_known_models(name, bytes_per_token):
    assert kv_bytes_per_token(model(name)) == bytes_per_token


def test_a_latent_cache_is_not_divided_by_tp_but_by_cp():
    graph = model("deepseek-v3")
    assert kv_bytes_per_token(graph, tp=8) == kv_bytes_per_token(graph)
    assert kv_bytes_per_token(graph, cp=8) == kv_bytes_per_token(graph) / 8


def test_windows_bound_the_cache_of_long_contexts():
    graph = model("gpt-oss-20b")
    layer = 2 * 8 * 64 * 2
    assert kv_bytes_per_token(graph) == 24 * layer
    assert kv_bytes_per_token(graph, context=128) == 24 * layer
    assert kv_bytes_per_token(graph, context=12_800) == pytest.approx(12 * layer * 1.01)


def test_the_heaviest_stage_of_a_hybrid_counts():
    graph = read_config(VARIANTS["jamba"])  # attention in layers 2 and 5 of 6
    whole = kv_bytes_per_token(graph)
    assert kv_bytes_per_token(graph, pp=2) == whole / 2
    assert kv_bytes_per_token(graph, pp=6) == whole / 2
    assert state_bytes_per_sequence(graph, pp=6) == state_bytes_per_sequence(graph) / 4


def test_the_state_of_mamba_is_constant_and_divided_by_tp():
    graph = model("nemotron-h-8b")
    inner, convolved = 128 * 64, 128 * 64 + 2 * 8 * 128
    assert state_bytes_per_sequence(graph) == 24 * (inner * 128 + convolved * 3) * 2
    assert state_bytes_per_sequence(graph, tp=8) == state_bytes_per_sequence(graph) / 8
    assert state_bytes_per_sequence(graph, dtype_bytes=4) == 2 * state_bytes_per_sequence(graph)


def test_a_video_model_attends_to_all_of_the_video_and_to_a_text_whose_work_does_not_grow_with_it():
    """Every term written out (WanModelProvider of Megatron-Bridge counts the same, but for the time step)."""
    graph = model("wan2.1-t2v-14b")
    hidden, ffn, text, layers = 5120, 13824, 512, 40
    for video in (1560, 37440):
        own = 2 * video * (4 * hidden**2 + 2 * hidden**2 + 2 * hidden * ffn + 2 * video * hidden + 2 * text * hidden)
        of_text = 2 * text * 2 * hidden**2
        edges = 2 * video * 2 * 64 * hidden + 2 * text * (4096 * hidden + hidden**2)
        step = 2 * (256 * hidden + hidden**2 + 6 * hidden**2)
        assert flops_per_token(graph, video) * video == pytest.approx(layers * (own + of_text) + edges + step)


def test_cross_attention_caches_the_source_once_and_its_flops_grow_with_the_source():
    graph = model("whisper-large-v3")
    assert cross_kv_bytes_per_token(graph) == 32 * 2 * 1280 * 2
    assert cross_kv_bytes_per_token(graph, tp=20, pp=2) == 16 * 2 * 64 * 2
    assert cross_kv_bytes_per_token(model("gpt2")) == 0
    short, long = (flops_per_token(graph, 448, source_sequence=source) for source in (750, 1500))
    encoder = sum(run.repeat * block_flops_per_token(run.block, 1500) for run in graph.runs if run.stack == "encoder")
    assert long > short
    assert long > encoder * 1500 / 448


def test_prediction_modules_add_their_flops_only_when_asked():
    graph = model("deepseek-v3")
    assert flops_per_token(graph, 4096, mtp=True) - flops_per_token(graph, 4096) == block_flops_per_token(
        graph.runs[-1].block, 4096
    )


def test_an_indexer_reads_everything_and_attention_what_it_picked():
    dense, sparse = model("deepseek-v3"), model("deepseek-v3.2")
    assert flops_per_token(sparse, 128_000) < flops_per_token(dense, 128_000) / 2
    assert flops_per_token(sparse, 1024) > flops_per_token(dense, 1024)
    assert kv_bytes_per_token(sparse) == kv_bytes_per_token(dense) + 61 * 128 * 2


def test_tied_tables_are_counted_once():
    for name in ("gpt2", "t5-3b"):
        tables = [op for block in model(name).blocks for op in block.operators if isinstance(op, Embedding)]
        held = [op for op in tables if op.name == "token_embedding" and not op.tied]
        assert len(held) == 1


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda graph: kv_bytes_per_token(graph, tp=0), "tp must be positive but got 0"),
        (lambda graph: kv_bytes_per_token(graph, context=0), "context must be positive but got 0"),
        (lambda graph: kv_bytes_per_token(graph, dtype_bytes=float("nan")), "dtype_bytes must be positive but got nan"),
        (lambda graph: flops_per_token(graph, 0), "sequence must be positive but got 0"),
        (lambda graph: state_bytes_per_sequence(graph, pp=13), "pp must be at most the 12 layers of gpt2 but got 13"),
        (lambda graph: activation_bytes_per_token(graph, tp=-1), "tp must be positive but got -1"),
    ],
)
def test_a_degree_or_length_that_cannot_be_is_refused(call, text):
    with pytest.raises(ModelError, match=text):
        call(model("gpt2"))

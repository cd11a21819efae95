"""Operators: what follows from their shapes, and what tensor parallelism leaves on one rank."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.models import Attention, Elementwise, Embedding, Experts, Linear, Norm, Scan, list_models, model


def full(**changes) -> Attention:
    """Eight query heads on two KV heads."""
    return Attention(**({"name": "a", "heads": 8, "kv_heads": 2, "qk_head_dim": 16, "v_head_dim": 16} | changes))


def attended(sequence, window, chunked):
    """Tokens that each position of a sequence attends to, counted one by one."""
    total = 0
    for position in range(sequence):
        first = position // window * window if chunked else max(0, position - window + 1)
        total += position - first + 1
    return total / sequence


@settings(derandomize=True, max_examples=60, deadline=None)
@given(sequence=st.integers(1, 60), window=st.integers(1, 70), chunked=st.booleans())
def test_mean_context_equals_the_count_over_positions(sequence, window, chunked):
    exact = attended(sequence, window, chunked)
    assert full(window=window, chunked=chunked).mean_context(sequence) == pytest.approx(exact)


def test_attention_without_a_mask_attends_to_everything_and_selected_attention_to_its_share():
    assert full(causal=False).mean_context(10) == 10
    assert full().mean_context(10) == 5.5
    assert full(selected=4).mean_context(10) == pytest.approx(attended(10, 4, chunked=False))
    assert full(selected=4).cached_tokens(10) == 10
    assert full(window=4).cached_tokens(10) == 4


def test_compressed_attention_sees_its_window_and_an_entry_for_every_stride():
    compressed = full(window=3, stride=4)
    counted = [min(position, 3) + position / 4 for position in range(1, 11)]
    assert compressed.mean_context(10) == pytest.approx(sum(counted) / 10)
    assert full(window=3, stride=4, selected=1).mean_context(10) == pytest.approx(
        sum(min(position, 3) + min(position / 4, 1) for position in range(1, 11)) / 10
    )
    assert compressed.cached_tokens(10) == 3 + 2


def test_kv_heads_are_divided_and_then_copied():
    assert [full().cached_elements_per_rank(tp) for tp in (1, 2, 4, 8)] == [64, 32, 32, 32]


def test_a_latent_is_copied_to_every_rank_and_absorbed_while_decoding():
    latent = full(kv_heads=8, latent_features=12, rope_features=4)
    assert {latent.cached_elements_per_rank(tp) for tp in (1, 2, 8)} == {16}
    assert latent.absorbed_flops_per_token_and_context == 2 * 8 * (12 + 12 + 4)
    assert full().absorbed_flops_per_token_and_context == full().flops_per_token_and_context


def test_cross_and_unmasked_attention_cache_nothing_per_token():
    assert full(cross=True, causal=False).cached_elements_per_rank(1) == 0
    assert full(causal=False).cached_elements == 0
    assert full(cross=True).context_elements == 64


def test_a_fused_qkv_projection_copies_kv_heads_beyond_their_number():
    qkv = Linear(
        name="qkv", in_features=64, out_features=8 * 16 + 64, split="column", bias=True, kv_features=64, kv_heads=2
    )
    assert [qkv.out_features_per_rank(tp) for tp in (1, 2, 4, 8)] == [192, 96, 32 + 32, 16 + 32]
    assert qkv.parameters_per_rank(2) * 2 == qkv.parameters
    assert qkv.parameters_per_rank(8) == 65 * 48


@pytest.mark.parametrize(
    ("split", "parameters", "saved", "saved_sp"),
    [("column", 65 * 24, 64, 16), ("row", 16 * 96 + 96, 16, 16), ("replicated", 65 * 96, 64, 16)],
)
def test_a_linear_on_one_of_four_ranks(split, parameters, saved, saved_sp):
    linear = Linear(name="l", in_features=64, out_features=96, split=split, bias=True)
    assert linear.parameters_per_rank(4) == parameters
    assert linear.saved_elements_per_rank(4, sp=False) == saved
    assert linear.saved_elements_per_rank(4, sp=True) == saved_sp


def test_a_tied_weight_is_multiplied_with_but_not_held():
    head = Linear(name="h", in_features=64, out_features=1000, split="vocab", tied=True)
    assert (head.parameters, head.parameters_per_rank(8)) == (0, 0)
    assert head.active_parameters == head.flops_per_token // 2 == 64_000
    assert Embedding(name="e", rows=1000, features=64, tied=True).parameters_per_rank(2) == 0


def test_a_table_is_divided_along_the_vocabulary_or_not_at_all():
    assert Embedding(name="e", rows=1001, features=64).parameters_per_rank(2) == 501 * 64
    assert Embedding(name="e", rows=32, features=64, split="replicated").parameters_per_rank(2) == 32 * 64
    assert Embedding(name="e", rows=32, features=64).active_parameters == 0


def test_norms_inside_heads_divide_their_activations_and_only_a_full_weight():
    assert Norm(name="n", features=128, weight_features=16, split="heads").parameters_per_rank(4) == 16
    assert Norm(name="n", features=128, weight_features=128, split="heads").parameters_per_rank(4) == 32
    assert Norm(name="n", features=128, weight_features=128, bias=True).parameters_per_rank(4) == 256
    assert Norm(name="n", features=128, weight_features=16, split="heads").saved_elements_per_rank(4, False) == 32


def test_an_addition_saves_nothing():
    addition = Elementwise(name="r", in_features=128, out_features=64, split="sequence", saved=False)
    assert addition.saved_elements_per_rank(2, sp=True) == 0


def test_experts_hold_all_and_use_few():
    body = (Linear(name="up", in_features=8, out_features=4, split="column"),)
    experts = Experts(name="e", experts=6, topk=2, body=body)
    assert (experts.parameters, experts.active_parameters) == (192, 64)
    assert experts.flops_per_token == 128
    assert experts.saved_elements == 16
    assert experts.parameters_per_rank(2, ep=4) == 2 * 16


def test_a_scan_keeps_a_divided_state():
    scan = Scan(name="s", features=8, state_elements=30, scan_flops_per_token=5, saved=8, extra_parameters=9)
    assert (scan.state_elements_per_rank(4), scan.parameters_per_rank(2), scan.flops_per_token) == (8, 5, 5)
    assert scan.saved_elements_per_rank(2, sp=False) == 4


@pytest.mark.parametrize("name", list_models())
def test_ranks_hold_at_least_their_share_and_at_most_everything(name):
    for block in model(name).blocks:
        names = [op.name for op in block.operators]
        assert len(set(names)) == len(names), f"names repeat in {block.name}"
        for op in block.operators:
            for tp in (1, 2, 8, 64):
                held = op.parameters_per_rank(tp)
                assert op.parameters <= held * tp
                assert held <= op.parameters_per_rank(1) == op.parameters
                assert op.saved_elements_per_rank(tp, sp=True) <= op.saved_elements_per_rank(tp, sp=False)


def test_graphs_survive_json():
    graph = model("deepseek-v3")
    assert msgspec.json.decode(msgspec.json.encode(graph), type=type(graph)) == graph

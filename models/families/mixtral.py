"""Grouped-query attention with a mixture of experts in all or some layers: Mixtral, Qwen-MoE."""

from __future__ import annotations

from msgspec.structs import replace

from ..blocks import FeedForward, Mixture
from ..fields import MAX_EXPERTS, MAX_LAYERS, MAX_POSITIONS, Fields
from ..graph import ModelGraph
from ..operators import Operator
from .common import Sizes, read_sizes, tied

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
TOPK = "num_experts_per_tok"


def read_topk(fields: Fields, experts: int) -> int:
    """Experts that see each token, at most all of them."""
    return fields.count(TOPK, high=experts)


def mixtral(fields: Fields, name: str) -> ModelGraph:
    """Mixtral: every layer a mixture; `intermediate_size` is an expert's."""
    sizes = read_sizes(fields)
    window = fields.optional_count("sliding_window", high=MAX_POSITIONS)
    experts = fields.count(*EXPERTS, high=MAX_EXPERTS)
    mixture = Mixture(
        hidden=sizes.hidden,
        experts=experts,
        topk=read_topk(fields, experts),
        ffn=fields.count("intermediate_size"),
    )
    attention = replace(sizes.attention(), window=window).operators()
    layers = [sizes.frame().layer("moe", attention, mixture.operators())] * sizes.layers
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def qwen2_moe(fields: Fields, name: str) -> ModelGraph:
    """Qwen 1.5/2 MoE: biased Q, K, V and a shared expert behind a sigmoid gate."""
    sizes = read_sizes(fields)
    attention = replace(sizes.attention(), qkv_bias=fields.flag("qkv_bias", default=True))
    shared = fields.count("shared_expert_intermediate_size", low=0)
    return _sparse(fields, name, sizes, attention.operators(), shared_ffn=shared)


def qwen3_moe(fields: Fields, name: str) -> ModelGraph:
    """Qwen 3 MoE: norms on Q and K, no shared expert."""
    sizes = read_sizes(fields)
    bias = fields.flag("attention_bias", default=False)
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias, qk_norm="head")
    return _sparse(fields, name, sizes, attention.operators())


def _sparse(
    fields: Fields, name: str, sizes: Sizes, attention: tuple[Operator, ...], shared_ffn: int = 0
) -> ModelGraph:
    experts = fields.count("num_experts", "num_local_experts", high=MAX_EXPERTS)
    mixture = Mixture(
        hidden=sizes.hidden,
        experts=experts,
        topk=read_topk(fields, experts),
        ffn=fields.count("moe_intermediate_size"),
        shared_ffn=shared_ffn,
        shared_gate=shared_ffn > 0,
    )
    if fields.flag("use_sliding_window", default=False):
        raise fields.refuse("use_sliding_window", "must be false: windows of this architecture are not known")
    sparse = sizes.frame().layer("moe", attention, mixture.operators())
    step = fields.count("decoder_sparse_step", high=MAX_LAYERS, default=1)
    dense_layers = _dense_layers(fields, sizes.layers)
    chain = [index not in dense_layers and (index + 1) % step == 0 for index in range(sizes.layers)]
    if all(chain):
        layers = [sparse] * sizes.layers
    else:
        feed_forward = FeedForward(hidden=sizes.hidden, ffn=fields.count("intermediate_size"), gated=True)
        dense = sizes.frame().layer("dense", attention, feed_forward.operators())
        layers = [sparse if is_sparse else dense for is_sparse in chain]
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def _dense_layers(fields: Fields, layers: int) -> frozenset[int]:
    if not fields.has("mlp_only_layers"):
        fields.assume(f"mlp_only_layers not given: empty, the default of {fields.architecture}")
        return frozenset()
    return frozenset(fields.counts("mlp_only_layers", low=0, high=layers - 1))

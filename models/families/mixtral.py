"""Grouped-query attention with mixtures of experts: Mixtral, Qwen-MoE, GLM 4.5, gpt-oss, MiniMax M2, OLMoE, Phi-MoE."""

from __future__ import annotations

from msgspec.structs import replace

from ..blocks import FeedForward, Mixture
from ..fields import MAX_EXPERTS, MAX_LAYERS, MAX_POSITIONS, Fields
from ..graph import ModelGraph
from ..operators import Operator
from .common import Sizes, patterned_windows, read_sizes, tied, windowed_layers
from .deepseek import prediction_module
from .experts import EXPERTS, read_gated_mixture, read_shared_mixture, read_sparse_layers, read_topk


def mixtral(fields: Fields, name: str) -> ModelGraph:
    """Mixtral: every layer a mixture; `intermediate_size` is an expert's."""
    sizes = read_sizes(fields)
    window = fields.optional_count("sliding_window", high=MAX_POSITIONS)
    attention = replace(sizes.attention(), window=window).operators()
    layers = [sizes.frame().layer("moe", attention, _plain_mixture(fields, sizes).operators())] * sizes.layers
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


def glm4_moe(fields: Fields, name: str) -> ModelGraph:
    """GLM 4.5 and 4.6: leading dense layers, shared experts, multi-token prediction."""
    sizes = read_sizes(fields)
    bias = fields.flag("attention_bias", default=False)
    norms = "head" if fields.flag("use_qk_norm", default=False) else "none"
    attention = replace(sizes.attention(), qkv_bias=bias, qk_norm=norms).operators()
    n_dense = fields.count("first_k_dense_replace", low=0, high=sizes.layers)
    feed_forward = FeedForward(hidden=sizes.hidden, ffn=fields.count("intermediate_size"), gated=True)
    dense = sizes.frame().layer("dense", attention, feed_forward.operators())
    moe = sizes.frame().layer("moe", attention, read_shared_mixture(fields, sizes.hidden).operators())
    mtp = fields.count("num_nextn_predict_layers", low=0, high=MAX_LAYERS)
    modules = [prediction_module(sizes.hidden, sizes.vocab, moe.operators)] * mtp
    around = sizes.model_frame(fields, name, tied(fields, False))
    return around.model([dense] * n_dense + [moe] * (sizes.layers - n_dense), modules)


def gpt_oss(fields: Fields, name: str) -> ModelGraph:
    """gpt-oss: biases everywhere, a sink per head, a window in every other layer, the first included."""
    sizes = read_sizes(fields, head_dim=64)
    bias = fields.flag("attention_bias", default=True)
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias, extra_parameters=sizes.heads)
    mixture = replace(_plain_mixture(fields, sizes), expert_bias=True, router_bias=True)
    windows = patterned_windows(fields, sizes.layers, 2)
    layers = windowed_layers(sizes.frame(), attention, windows, mixture.operators(), "moe")
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def minimax_m2(fields: Fields, name: str) -> ModelGraph:
    """MiniMax M2: norms over all of Q and of K; prediction modules are not in the published weights."""
    sizes = read_sizes(fields, head_dim=128)
    attention = replace(sizes.attention(), qk_norm="full").operators()
    layers = [sizes.frame().layer("moe", attention, _plain_mixture(fields, sizes).operators())] * sizes.layers
    if fields.has("shared_intermediate_size"):
        fields.count("shared_intermediate_size", low=0, high=0)
    if fields.has("num_mtp_modules"):
        fields.assume("num_mtp_modules: multi-token-prediction modules are left out, as in the published weights")
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def olmoe(fields: Fields, name: str) -> ModelGraph:
    """OLMoE: norms over all of Q and of K; `intermediate_size` is an expert's."""
    sizes = read_sizes(fields, kv_default=True)
    bias = fields.flag("attention_bias", default=False)
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias, qk_norm="full").operators()
    layers = [sizes.frame().layer("moe", attention, _plain_mixture(fields, sizes).operators())] * sizes.layers
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def phimoe(fields: Fields, name: str) -> ModelGraph:
    """Phi 3.5 MoE: LayerNorm, and biases where the configuration says so."""
    sizes = read_sizes(fields)
    bias = fields.flag("attention_bias", default=False)
    window = fields.optional_count("sliding_window", high=MAX_POSITIONS)
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias, window=window).operators()
    mixture = _plain_mixture(fields, sizes).operators()
    layers = [sizes.frame(norm_bias=True).layer("moe", attention, mixture)] * sizes.layers
    head_bias = fields.flag("lm_head_bias", default=False)
    around = sizes.model_frame(fields, name, tied(fields, False))
    return replace(around, norm_bias=True, head_bias=head_bias).model(layers)


def _plain_mixture(fields: Fields, sizes: Sizes) -> Mixture:
    experts = fields.count(*EXPERTS, high=MAX_EXPERTS)
    width = fields.count("intermediate_size")
    return Mixture(hidden=sizes.hidden, experts=experts, topk=read_topk(fields, experts), ffn=width)


def _sparse(
    fields: Fields, name: str, sizes: Sizes, attention: tuple[Operator, ...], shared_ffn: int = 0
) -> ModelGraph:
    if fields.flag("use_sliding_window", default=False):
        raise fields.refuse("use_sliding_window", "must be false in this architecture")
    mixture = read_gated_mixture(fields, sizes.hidden, shared_ffn)
    sparse = sizes.frame().layer("moe", attention, mixture.operators())
    chain = read_sparse_layers(fields, sizes.layers)
    dense = sparse
    if not all(chain):
        feed_forward = FeedForward(hidden=sizes.hidden, ffn=fields.count("intermediate_size"), gated=True)
        dense = sizes.frame().layer("dense", attention, feed_forward.operators())
    layers = [sparse if is_sparse else dense for is_sparse in chain]
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)

"""Decoders with LayerNorm and a plain feed-forward: GPT-2, GPT-J, GPT-NeoX, OPT, BLOOM, MPT, Falcon, StarCoder, Phi 2.

GPT-3 and Megatron-style models of the same form are described as GPT-2 configurations.
"""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from ..blocks import FeedForward, LayerFrame
from ..fields import MAX_POSITIONS, Fields
from ..graph import Block, ModelGraph
from .common import Sizes, read_sizes, tied, windowed_layers


def gpt2(fields: Fields, name: str) -> ModelGraph:
    """GPT-2: learned positions, biases everywhere."""
    sizes = read_sizes(fields, multi_head=True)
    attention = replace(sizes.attention(), qkv_bias=True, output_bias=True, rope=False)
    layers = [sizes.frame(True).layer("dense", attention.operators(), _inner(fields, sizes).operators())] * sizes.layers
    return _positioned(fields, name, sizes, layers)


def gpt_bigcode(fields: Fields, name: str) -> ModelGraph:
    """StarCoder 1 and SantaCoder: GPT-2 with one KV head if `multi_query`."""
    sizes = read_sizes(fields, multi_head=True)
    kv_heads = 1 if fields.flag("multi_query", default=True) else sizes.heads
    attention = replace(sizes.attention(), kv_heads=kv_heads, qkv_bias=True, output_bias=True, rope=False)
    layers = [sizes.frame(True).layer("dense", attention.operators(), _inner(fields, sizes).operators())] * sizes.layers
    return _positioned(fields, name, sizes, layers)


def gptj(fields: Fields, name: str) -> ModelGraph:
    """GPT-J: attention and feed-forward side by side after one norm; a biased head."""
    sizes = read_sizes(fields, multi_head=True)
    frame = LayerFrame(hidden=sizes.hidden, norm_bias=True, norms="parallel")
    feed_forward = _inner(fields, sizes).operators()
    layers = [frame.layer("dense", sizes.attention().operators(), feed_forward)] * sizes.layers
    around = sizes.model_frame(fields, name, tied(fields, False))
    return replace(around, norm_bias=True, head_bias=True).model(layers)


def gpt_neox(fields: Fields, name: str) -> ModelGraph:
    """GPT-NeoX and Pythia: parallel branches, each after its own norm, if `use_parallel_residual`."""
    sizes = read_sizes(fields, multi_head=True)
    bias = fields.flag("attention_bias", default=True)
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias).operators()
    parallel = fields.flag("use_parallel_residual", default=True)
    frame = LayerFrame(hidden=sizes.hidden, norm_bias=True, norms="parallel-two" if parallel else "pre")
    feed_forward = _plain(sizes, fields.count("intermediate_size")).operators()
    layers = [frame.layer("dense", attention, feed_forward)] * sizes.layers
    return replace(sizes.model_frame(fields, name, tied(fields, False)), norm_bias=True).model(layers)


def opt(fields: Fields, name: str) -> ModelGraph:
    """OPT: learned positions with two rows to spare; OPT-350M norms after each addition and embeds narrower."""
    sizes = read_sizes(fields, multi_head=True)
    if sizes.max_positions is None:
        raise fields.missing(("max_position_embeddings",), "the number of learned positions")
    if not fields.flag("layer_norm_elementwise_affine", default=True):
        raise fields.refuse("layer_norm_elementwise_affine", "must be true")
    bias = fields.flag("enable_bias", default=True)
    before = fields.flag("do_layer_norm_before", default=True)
    removed = fields.flag("_remove_final_layer_norm", default=False)
    frame = LayerFrame(hidden=sizes.hidden, norm_bias=True, norms="pre" if before else "outer")
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias, rope=False).operators()
    feed_forward = replace(_plain(sizes, fields.count("ffn_dim")), bias=bias).operators()
    width = fields.count("word_embed_proj_dim", default=sizes.hidden)
    around = replace(
        sizes.model_frame(fields, name, tied(fields, True)),
        norm_bias=True,
        final_norm=before and not removed,
        learned_positions=sizes.max_positions + 2,
        embedding_width=width,
    )
    return around.model([frame.layer("dense", attention, feed_forward)] * sizes.layers)


def bloom(fields: Fields, name: str) -> ModelGraph:
    """BLOOM: linear biases (ALiBi) for positions, a norm after the embedding."""
    sizes = read_sizes(fields, multi_head=True)
    attention = replace(sizes.attention(), qkv_bias=True, output_bias=True, rope=False).operators()
    feed_forward = _plain(sizes, 4 * sizes.hidden).operators()
    layers = [sizes.frame(True).layer("dense", attention, feed_forward)] * sizes.layers
    around = sizes.model_frame(fields, name, tied(fields, True))
    return replace(around, norm_bias=True, embedding_norm=True).model(layers)


def mpt(fields: Fields, name: str) -> ModelGraph:
    """MPT: ALiBi, no biases at all (`no_bias`), a feed-forward of `expansion_ratio` × width."""
    sizes = read_sizes(fields, multi_head=True)
    if not fields.flag("no_bias", default=True):
        raise fields.refuse("no_bias", "must be true")
    inner = fields.nested("attn_config")
    if not inner.flag("alibi", default=True):
        raise inner.refuse("alibi", "must be true")
    inner.choice("attn_type", ("multihead_attention",), default="multihead_attention")
    if inner.flag("qk_ln", default=False):
        raise inner.refuse("qk_ln", "must be false")
    attention = replace(sizes.attention(), rope=False).operators()
    width = fields.count("expansion_ratio", default=4) * sizes.hidden
    feed_forward = FeedForward(hidden=sizes.hidden, ffn=width, gated=False).operators()
    layers = [sizes.frame().layer("dense", attention, feed_forward)] * sizes.layers
    return sizes.model_frame(fields, name, tied(fields, True)).model(layers)


def falcon(fields: Fields, name: str) -> ModelGraph:
    """Falcon 7B (one KV head) and the new decoder architecture (groups, two parallel norms) of 40B and 180B."""
    sizes = read_sizes(fields, multi_head=True)
    new = fields.flag("new_decoder_architecture", default=False)
    if new:
        groups = read_sizes(fields, kv_default=True).kv_heads
    else:
        groups = 1 if fields.flag("multi_query", default=True) else sizes.heads
    bias = fields.flag("bias", default=False)
    rope = not fields.flag("alibi", default=False)
    attention = replace(sizes.attention(), kv_heads=groups, qkv_bias=bias, output_bias=bias, rope=rope)
    norms: Literal["pre", "parallel", "parallel-two"] = "pre"
    if fields.flag("parallel_attn", default=True):
        two = fields.count("num_ln_in_parallel_attn", high=2, default=2 if new else 1) == 2
        norms = "parallel-two" if two else "parallel"
    frame = LayerFrame(hidden=sizes.hidden, norm_bias=True, norms=norms)
    width = fields.count("ffn_hidden_size", default=4 * sizes.hidden)
    feed_forward = FeedForward(hidden=sizes.hidden, ffn=width, gated=False, bias=bias)
    layers = [frame.layer("dense", attention.operators(), feed_forward.operators())] * sizes.layers
    return replace(sizes.model_frame(fields, name, tied(fields, True)), norm_bias=True).model(layers)


def starcoder2(fields: Fields, name: str) -> ModelGraph:
    """StarCoder 2: grouped queries and a window on every layer unless `sliding_window` is null."""
    sizes = read_sizes(fields)
    bias = fields.flag("use_bias", default=True)
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias)
    window = fields.optional_count("sliding_window", high=MAX_POSITIONS)
    feed_forward = replace(_plain(sizes, fields.count("intermediate_size")), bias=bias).operators()
    layers = windowed_layers(sizes.frame(True), attention, (window,) * sizes.layers, feed_forward)
    return replace(sizes.model_frame(fields, name, tied(fields, True)), norm_bias=True).model(layers)


def phi(fields: Fields, name: str) -> ModelGraph:
    """Phi 1 and 2: parallel branches after one norm, biases everywhere, the head's too."""
    sizes = read_sizes(fields, kv_default=True)
    norms = "head" if fields.flag("qk_layernorm", default=False) else "none"
    attention = replace(sizes.attention(), qkv_bias=True, output_bias=True, qk_norm=norms, norm_bias=True).operators()
    frame = LayerFrame(hidden=sizes.hidden, norm_bias=True, norms="parallel")
    feed_forward = _plain(sizes, fields.count("intermediate_size")).operators()
    layers = [frame.layer("dense", attention, feed_forward)] * sizes.layers
    around = sizes.model_frame(fields, name, tied(fields, False))
    return replace(around, norm_bias=True, head_bias=True).model(layers)


def nemotron(fields: Fields, name: str) -> ModelGraph:
    """Nemotron 3 and 4: squared ReLU without a gate, LayerNorm with biases."""
    sizes = read_sizes(fields)
    bias = fields.flag("attention_bias", default=False)
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias).operators()
    feed_forward = FeedForward(
        hidden=sizes.hidden,
        ffn=fields.count("intermediate_size"),
        gated=False,
        bias=fields.flag("mlp_bias", default=False),
    ).operators()
    layers = [sizes.frame(True).layer("dense", attention, feed_forward)] * sizes.layers
    return replace(sizes.model_frame(fields, name, tied(fields, False)), norm_bias=True).model(layers)


def _plain(sizes: Sizes, width: int) -> FeedForward:
    return FeedForward(hidden=sizes.hidden, ffn=width, gated=False, bias=True)


def _inner(fields: Fields, sizes: Sizes) -> FeedForward:
    """`n_inner`, of which a null is documented as 4 × width."""
    return _plain(sizes, fields.optional_count("n_inner") or 4 * sizes.hidden)


def _positioned(fields: Fields, name: str, sizes: Sizes, layers: list[Block]) -> ModelGraph:
    if sizes.max_positions is None:
        raise fields.missing(("n_positions",), "the number of learned positions")
    around = sizes.model_frame(fields, name, tied(fields, True))
    return replace(around, norm_bias=True, learned_positions=sizes.max_positions).model(layers)

"""Llama 4: chunked attention in three layers of four, mixtures with a shared expert in all or every other layer."""

from __future__ import annotations

from msgspec.structs import replace

from ..attention import GroupedAttention
from ..blocks import FeedForward, Mixture
from ..fields import MAX_EXPERTS, MAX_LAYERS, MAX_POSITIONS, Fields
from ..graph import ModelGraph
from .common import Sizes, read_sizes, tied
from .experts import EXPERTS, read_topk


def llama4(fields: Fields, name: str) -> ModelGraph:
    """The text model; `intermediate_size` is an expert's, `intermediate_size_mlp` a dense layer's."""
    sizes = read_sizes(fields, head_dim=128)
    chunked = _chunked_layers(fields, sizes.layers)
    sparse = _sparse_layers(fields, sizes.layers)
    experts = fields.count(*EXPERTS, high=MAX_EXPERTS)
    width = fields.count("intermediate_size")
    topk = read_topk(fields, experts)
    mixture = Mixture(hidden=sizes.hidden, experts=experts, topk=topk, ffn=width, shared_ffn=width).operators()
    dense = FeedForward(hidden=sizes.hidden, ffn=fields.count("intermediate_size_mlp"), gated=True).operators()
    attentions = {is_chunked: _attention(fields, sizes, is_chunked) for is_chunked in set(chunked)}
    blocks = {
        (is_chunked, is_sparse): sizes.frame().layer(
            f"{'chunked_' if is_chunked else ''}{'moe' if is_sparse else 'dense'}",
            attention.operators(),
            mixture if is_sparse else dense,
        )
        for is_chunked, attention in attentions.items()
        for is_sparse in (True, False)
    }
    layers = [blocks[pair] for pair in zip(chunked, sparse, strict=True)]
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def _attention(fields: Fields, sizes: Sizes, chunked: bool) -> GroupedAttention:
    """Chunked layers rotate, and norm Q and K without weights if `use_qk_norm`; the others do neither."""
    bias = fields.flag("attention_bias", default=False)
    normed = fields.flag("use_qk_norm", default=True) and chunked
    return replace(
        sizes.attention(),
        qkv_bias=bias,
        output_bias=bias,
        rope=chunked,
        qk_norm="unweighted" if normed else "none",
        window=fields.optional_count("attention_chunk_size", high=MAX_POSITIONS) if chunked else None,
        chunked=chunked,
    )


def _chunked_layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    """From `layer_types`, or `no_rope_layers` (1 where a layer rotates), or one full layer in an interval."""
    if fields.has("layer_types"):
        words = fields.words("layer_types", ("chunked_attention", "full_attention"), layers)
        return tuple(word == "chunked_attention" for word in words)
    if fields.document.get("no_rope_layers"):
        return tuple(flag == 1 for flag in fields.counts("no_rope_layers", low=0, high=1, length=layers))
    every = fields.count("no_rope_layer_interval", high=MAX_LAYERS, default=4)
    return tuple((index + 1) % every != 0 for index in range(layers))


def _sparse_layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    if fields.has("moe_layers"):
        sparse = frozenset(fields.counts("moe_layers", low=0, high=layers - 1))
        return tuple(index in sparse for index in range(layers))
    step = fields.count("interleave_moe_layer_step", high=MAX_LAYERS)
    return tuple((index + 1) % step == 0 for index in range(layers))

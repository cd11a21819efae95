"""Pre-norm decoders with grouped-query attention and a gated feed-forward: Llama, Mistral, Qwen."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..blocks import FeedForward, GroupedAttention
from ..fields import MAX_LAYERS, MAX_POSITIONS, Fields
from ..graph import Block, ModelGraph
from .common import Sizes, layer_type_windows, read_sizes, tied

ATTENTION_KINDS = ("full_attention", "sliding_attention")


def llama(fields: Fields, name: str) -> ModelGraph:
    """Llama 1–3 and models published in its architecture."""
    sizes = read_sizes(fields, kv_default=True)
    bias = fields.flag("attention_bias", default=False)
    mlp_bias = fields.flag("mlp_bias", default=False)
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias)
    layers = [_layer(sizes, attention, fields.count("intermediate_size"), mlp_bias)] * sizes.layers
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def mistral(fields: Fields, name: str) -> ModelGraph:
    """Mistral: Llama with a window on every layer unless `sliding_window` is null."""
    sizes = read_sizes(fields)
    window = fields.nullable_count("sliding_window", high=MAX_POSITIONS)
    attention = replace(sizes.attention(), window=window)
    layers = [_layer(sizes, attention, fields.count("intermediate_size"))] * sizes.layers
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def internlm(fields: Fields, name: str) -> ModelGraph:
    """InternLM: Llama without grouped queries; `bias` is that of all four attention projections."""
    sizes = read_sizes(fields, kv_default=True)
    bias = fields.flag("bias")
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias)
    layers = [_layer(sizes, attention, fields.count("intermediate_size"))] * sizes.layers
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def qwen2(fields: Fields, name: str) -> ModelGraph:
    """Qwen 1.5, 2, 2.5: biased Q, K, V projections."""
    sizes = read_sizes(fields, kv_default=False)
    attention = replace(sizes.attention(), qkv_bias=True)
    windows = qwen_windows(fields, sizes.layers)
    layers = _windowed(sizes, attention, windows, fields.count("intermediate_size"))
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def qwen3(fields: Fields, name: str) -> ModelGraph:
    """Qwen 3: head_dim of its own, norms on Q and K."""
    sizes = read_sizes(fields, head_dim=128)
    bias = fields.flag("attention_bias", default=False)
    attention = replace(sizes.attention(), qkv_bias=bias, output_bias=bias, qk_norm="head")
    windows = qwen_windows(fields, sizes.layers)
    layers = _windowed(sizes, attention, windows, fields.count("intermediate_size"))
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def qwen_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """Windows from `layer_types`, else on the layers from `max_window_layers` if `use_sliding_window` is true."""
    if fields.has("layer_types"):
        return layer_type_windows(fields, layers, ATTENTION_KINDS)
    if not fields.flag("use_sliding_window", default=False):
        return (None,) * layers
    window = fields.nullable_count("sliding_window", high=MAX_POSITIONS)
    first = fields.count("max_window_layers", low=0, high=MAX_LAYERS)
    return tuple(window if index >= first else None for index in range(layers))


def _windowed(sizes: Sizes, attention: GroupedAttention, windows: Sequence[int | None], ffn: int) -> list[Block]:
    blocks = {window: _layer(sizes, replace(attention, window=window), ffn) for window in set(windows)}
    return [blocks[window] for window in windows]


def _layer(sizes: Sizes, attention: GroupedAttention, ffn: int, mlp_bias: bool = False) -> Block:
    feed_forward = FeedForward(hidden=sizes.hidden, ffn=ffn, gated=True, bias=mlp_bias)
    name = "dense" if attention.window is None else "sliding"
    return sizes.frame().layer(name, attention.operators(), feed_forward.operators())

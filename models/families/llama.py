"""Decoders with grouped-query attention and a gated feed-forward: Llama, Mistral, Qwen, Phi 3 and 4, OLMo 2, …"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..attention import GroupedAttention
from ..blocks import FeedForward, LayerFrame
from ..fields import MAX_LAYERS, MAX_POSITIONS, Fields
from ..graph import Block, ModelGraph
from .common import Sizes, layer_type_windows, read_sizes, tied, windowed_layers


def llama(fields: Fields, name: str) -> ModelGraph:
    """Llama 1–3, models published in its architecture, and Granite, which scales some activations."""
    sizes = read_sizes(fields, kv_default=True)
    attention = _biased(fields, sizes)
    layers = gated_layers(fields, sizes, attention, mlp_bias=fields.flag("mlp_bias", default=False))
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def mistral(fields: Fields, name: str) -> ModelGraph:
    """Mistral: a window on every layer unless `sliding_window` is null."""
    sizes = read_sizes(fields)
    window = fields.nullable_count("sliding_window", high=MAX_POSITIONS)
    layers = gated_layers(fields, sizes, sizes.attention(), windows=[window] * sizes.layers)
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def phi3(fields: Fields, name: str) -> ModelGraph:
    """Phi 3 and Phi 4: a window on every layer if `sliding_window` is set."""
    sizes = read_sizes(fields, kv_default=True)
    window = fields.optional_count("sliding_window", high=MAX_POSITIONS)
    layers = gated_layers(fields, sizes, sizes.attention(), windows=[window] * sizes.layers)
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def internlm(fields: Fields, name: str) -> ModelGraph:
    """InternLM: `bias` is that of all four attention projections."""
    sizes = read_sizes(fields, kv_default=True)
    bias = fields.flag("bias")
    layers = gated_layers(fields, sizes, replace(sizes.attention(), qkv_bias=bias, output_bias=bias))
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def olmo2(fields: Fields, name: str) -> ModelGraph:
    """OLMo 2: norms after each branch, and on all of Q and K."""
    sizes = read_sizes(fields, kv_default=True)
    attention = replace(_biased(fields, sizes), qk_norm="full")
    layers = gated_layers(fields, sizes, attention, frame=LayerFrame(hidden=sizes.hidden, norms="post"))
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def smollm3(fields: Fields, name: str) -> ModelGraph:
    """SmolLM 3: Llama with tied embeddings; layers without rotation differ in no size."""
    sizes = read_sizes(fields)
    attention = _biased(fields, sizes)
    mlp_bias = fields.flag("mlp_bias", default=False)
    windows = layer_type_windows(fields, sizes.layers) if fields.has("layer_types") else ()
    layers = gated_layers(fields, sizes, attention, mlp_bias=mlp_bias, windows=windows)
    return sizes.model_frame(fields, name, tied(fields, True)).model(layers)


def qwen2(fields: Fields, name: str) -> ModelGraph:
    """Qwen 1.5, 2, 2.5: biased Q, K, V projections."""
    sizes = read_sizes(fields)
    attention = replace(sizes.attention(), qkv_bias=True)
    layers = gated_layers(fields, sizes, attention, windows=qwen_windows(fields, sizes.layers))
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def qwen3(fields: Fields, name: str) -> ModelGraph:
    """Qwen 3: head_dim of its own, norms on Q and K."""
    sizes = read_sizes(fields, head_dim=128)
    attention = replace(_biased(fields, sizes), qk_norm="head")
    layers = gated_layers(fields, sizes, attention, windows=qwen_windows(fields, sizes.layers))
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def qwen_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """Windows from `layer_types`, else on the layers from `max_window_layers` if `use_sliding_window` is true."""
    if fields.has("layer_types"):
        return layer_type_windows(fields, layers)
    if not fields.flag("use_sliding_window", default=False):
        return (None,) * layers
    window = fields.nullable_count("sliding_window", high=MAX_POSITIONS)
    first = fields.count("max_window_layers", low=0, high=MAX_LAYERS)
    return tuple(window if index >= first else None for index in range(layers))


def _biased(fields: Fields, sizes: Sizes) -> GroupedAttention:
    bias = fields.flag("attention_bias", default=False)
    return replace(sizes.attention(), qkv_bias=bias, output_bias=bias)


def gated_layers(
    fields: Fields,
    sizes: Sizes,
    attention: GroupedAttention,
    windows: Sequence[int | None] = (),
    mlp_bias: bool = False,
    frame: LayerFrame | None = None,
) -> list[Block]:
    """Layers of this attention and a gated feed-forward of `intermediate_size`; no `windows` means none anywhere."""
    width = fields.count("intermediate_size")
    feed_forward = FeedForward(hidden=sizes.hidden, ffn=width, gated=True, bias=mlp_bias).operators()
    return windowed_layers(frame or sizes.frame(), attention, windows or (None,) * sizes.layers, feed_forward)

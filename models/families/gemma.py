"""Decoders with windows in most layers or norms around each branch: Gemma, Cohere, GLM 4."""

from __future__ import annotations

from msgspec.structs import replace

from ..attention import GroupedAttention
from ..blocks import FeedForward, LayerFrame
from ..fields import MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, Fields
from ..graph import ModelGraph
from .common import (
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    POSITIONS,
    Sizes,
    patterned_windows,
    read_sizes,
    tied,
    windowed_layers,
)
from .llama import gated_layers


def gemma(fields: Fields, name: str) -> ModelGraph:
    """Gemma 1: Llama with a head_dim of its own and tied embeddings."""
    sizes = read_sizes(fields, head_dim=256)
    layers = gated_layers(fields, sizes, _attention(fields, sizes))
    return sizes.model_frame(fields, name, tied(fields, True)).model(layers)


def gemma2(fields: Fields, name: str) -> ModelGraph:
    """Gemma 2: a norm before and after each branch, a window in every other layer, the first included."""
    sizes = read_sizes(fields, head_dim=256)
    frame = LayerFrame(hidden=sizes.hidden, norms="sandwich")
    windows = patterned_windows(fields, sizes.layers, 2)
    layers = gated_layers(fields, sizes, _attention(fields, sizes), windows, frame=frame)
    return sizes.model_frame(fields, name, tied(fields, True)).model(layers)


def gemma3(fields: Fields, name: str) -> ModelGraph:
    """Gemma 3: five windowed layers to one full, norms on Q and K; its files omit sizes that are the class's own."""
    heads = fields.count(*HEADS, high=MAX_HEADS, default=8)
    kv_heads = fields.count(*KV_HEADS, high=MAX_HEADS, default=4)
    fields.divides(KV_HEADS[0], kv_heads, HEADS[0], heads)
    sizes = Sizes(
        layers=fields.count(*LAYERS, high=MAX_LAYERS),
        hidden=fields.count(*HIDDEN),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=fields.count("head_dim", default=256),
        vocab=fields.count("vocab_size", high=MAX_VOCAB, default=262_208),
        max_positions=fields.count(*POSITIONS, high=MAX_POSITIONS, default=131_072),
    )
    windows = patterned_windows(fields, sizes.layers, 6)
    attention = replace(_attention(fields, sizes), qk_norm="head")
    frame = LayerFrame(hidden=sizes.hidden, norms="sandwich")
    layers = gated_layers(fields, sizes, attention, windows, frame=frame)
    return sizes.model_frame(fields, name, tied(fields, True)).model(layers)


def cohere(fields: Fields, name: str) -> ModelGraph:
    """Command R: parallel branches after one norm, tied embeddings."""
    sizes = read_sizes(fields, kv_default=True)
    norms = "full" if fields.flag("use_qk_norm", default=False) else "none"
    attention = replace(_attention(fields, sizes), qk_norm=norms)
    frame = LayerFrame(hidden=sizes.hidden, norms="parallel")
    layers = gated_layers(fields, sizes, attention, frame=frame)
    return sizes.model_frame(fields, name, tied(fields, True)).model(layers)


def cohere2(fields: Fields, name: str) -> ModelGraph:
    """Command A and R7B: three windowed layers to one full."""
    sizes = read_sizes(fields, kv_default=True)
    windows = patterned_windows(fields, sizes.layers, 4)
    frame = LayerFrame(hidden=sizes.hidden, norms="parallel")
    layers = gated_layers(fields, sizes, _attention(fields, sizes), windows, frame=frame)
    return sizes.model_frame(fields, name, tied(fields, True)).model(layers)


def glm(fields: Fields, name: str) -> ModelGraph:
    """GLM 4 9B: biased Q, K, V."""
    return _glm(fields, name, LayerFrame(hidden=fields.count(*HIDDEN)))


def glm4(fields: Fields, name: str) -> ModelGraph:
    """GLM 4 0414: a norm after each branch as well."""
    return _glm(fields, name, LayerFrame(hidden=fields.count(*HIDDEN), norms="sandwich"))


def chatglm(fields: Fields, name: str) -> ModelGraph:
    """ChatGLM 2 to 4 in their own field names."""
    sizes = Sizes(
        layers=fields.count("num_layers", high=MAX_LAYERS),
        hidden=fields.count("hidden_size"),
        heads=fields.count("num_attention_heads", high=MAX_HEADS),
        kv_heads=_chatglm_groups(fields),
        head_dim=fields.count("kv_channels"),
        vocab=fields.count("padded_vocab_size", high=MAX_VOCAB),
        max_positions=fields.count("seq_length", high=MAX_POSITIONS),
    )
    fields.divides("multi_query_group_num", sizes.kv_heads, "num_attention_heads", sizes.heads)
    for flag in ("rmsnorm", "post_layer_norm"):
        if not fields.flag(flag):
            raise fields.refuse(flag, "must be true")
    bias = fields.flag("add_bias_linear")
    attention = replace(sizes.attention(), qkv_bias=bias or fields.flag("add_qkv_bias"), output_bias=bias)
    width = fields.count("ffn_hidden_size")
    feed_forward = FeedForward(hidden=sizes.hidden, ffn=width, gated=True, bias=bias).operators()
    layers = windowed_layers(sizes.frame(), attention, (None,) * sizes.layers, feed_forward)
    return sizes.model_frame(fields, name, fields.flag("tie_word_embeddings")).model(layers)


def _chatglm_groups(fields: Fields) -> int:
    if fields.flag("multi_query_attention"):
        return fields.count("multi_query_group_num", high=MAX_HEADS)
    return fields.count("num_attention_heads", high=MAX_HEADS)


def _glm(fields: Fields, name: str, frame: LayerFrame) -> ModelGraph:
    sizes = read_sizes(fields, head_dim=128)
    attention = replace(sizes.attention(), qkv_bias=fields.flag("attention_bias", default=True))
    layers = gated_layers(fields, sizes, attention, frame=frame)
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def _attention(fields: Fields, sizes: Sizes) -> GroupedAttention:
    bias = fields.flag("attention_bias", default=False)
    return replace(sizes.attention(), qkv_bias=bias, output_bias=bias)

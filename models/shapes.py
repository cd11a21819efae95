"""Plain transformers from a handful of sizes, for models that have no configuration file."""

from __future__ import annotations

from typing import Literal

import msgspec

from .attention import GroupedAttention
from .blocks import FeedForward, LayerFrame, Mixture, ModelFrame
from .errors import ModelError
from .fields import MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH
from .graph import ModelGraph


class TransformerShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The sizes of a decoder-only transformer.

    `kv_heads` and `head_dim` default to `heads` and hidden / heads; `gated` is SwiGLU and its like. With `experts`,
    every layer after the first `dense_layers` is a mixture of experts of width `moe_ffn`. `learned_positions` adds a
    table of `max_positions` rows.

    Raises ModelError naming the field when sizes are not positive, are absurd, or contradict each other.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int = 0
    vocab: int
    kv_heads: int | None = None
    head_dim: int | None = None
    gated: bool = False
    norm: Literal["rms", "layer"] = "layer"
    bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    learned_positions: bool = False
    max_positions: int | None = None
    experts: int = 0
    topk: int = 0
    moe_ffn: int = 0
    shared_ffn: int = 0
    dense_layers: int = 0

    def __post_init__(self) -> None:
        limits = {
            "layers": (1, MAX_LAYERS),
            "hidden": (1, MAX_WIDTH),
            "heads": (1, MAX_HEADS),
            "vocab": (1, MAX_VOCAB),
            "kv_heads": (1, MAX_HEADS),
            "head_dim": (1, MAX_WIDTH),
            "max_positions": (1, MAX_POSITIONS),
            "experts": (0, MAX_EXPERTS),
            "topk": (1 if self.experts else 0, self.experts),
            "moe_ffn": (1 if self.experts else 0, MAX_WIDTH),
            "shared_ffn": (0, MAX_WIDTH if self.experts else 0),
            "dense_layers": (0, self.layers if self.experts else 0),
            "ffn": (0 if self.experts and not self.dense_layers else 1, MAX_WIDTH),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not low <= value <= high):
                raise ModelError(f"shape.{name} must be an integer between {low} and {high} but got {value}")
        if self.head_dim is None and self.hidden % self.heads:
            raise ModelError(f"shape.hidden must be a multiple of heads {self.heads} but got {self.hidden}")
        if self.heads % (self.kv_heads or self.heads):
            raise ModelError(f"shape.heads must be a multiple of kv_heads {self.kv_heads} but got {self.heads}")
        if self.learned_positions and self.max_positions is None:
            raise ModelError("shape.max_positions is missing: learned_positions needs the number of rows")


def transformer(shape: TransformerShape, name: str = "transformer") -> ModelGraph:
    """The model graph of a plain transformer."""
    attention = GroupedAttention(
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads or shape.heads,
        head_dim=shape.head_dim or shape.hidden // shape.heads,
        qkv_bias=shape.bias,
        output_bias=shape.bias,
        rope=not shape.learned_positions,
        qk_norm="head" if shape.qk_norm else "none",
    ).operators()
    layer_norm = shape.norm == "layer"
    frame = LayerFrame(hidden=shape.hidden, norm_bias=layer_norm)
    dense = FeedForward(hidden=shape.hidden, ffn=shape.ffn, gated=shape.gated, bias=shape.bias)
    n_dense = shape.dense_layers if shape.experts else shape.layers
    layers = [frame.layer("dense", attention, dense.operators())] * n_dense
    if shape.experts:
        mixture = Mixture(
            hidden=shape.hidden,
            experts=shape.experts,
            topk=shape.topk,
            ffn=shape.moe_ffn,
            gated=shape.gated,
            expert_bias=shape.bias,
            shared_ffn=shape.shared_ffn,
        )
        layers += [frame.layer("moe", attention, mixture.operators())] * (shape.layers - n_dense)
    return ModelFrame(
        name=name,
        architecture="transformer",
        hidden=shape.hidden,
        vocab=shape.vocab,
        max_positions=shape.max_positions,
        tied=shape.tied,
        learned_positions=(shape.max_positions or 0) if shape.learned_positions else 0,
        norm_bias=layer_norm,
    ).model(layers)

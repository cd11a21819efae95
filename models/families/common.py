"""What the readers of many families share: the sizes of a decoder, window patterns, and the frame around layers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from ..attention import GroupedAttention
from ..blocks import LayerFrame, ModelFrame
from ..fields import MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, Fields
from ..graph import Block
from ..operators import Operator

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
HEAD_DIM = ("head_dim", "attention_head_dim")
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes that every decoder has."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int | None

    def attention(self) -> GroupedAttention:
        """Plain causal attention of these sizes, to be refined with `msgspec.structs.replace`."""
        return GroupedAttention(hidden=self.hidden, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim)

    def frame(self, norm_bias: bool = False) -> LayerFrame:
        """Layers normed before each branch."""
        return LayerFrame(hidden=self.hidden, norm_bias=norm_bias)

    def model_frame(self, fields: Fields, name: str, tied: bool) -> ModelFrame:
        """What surrounds the layers; call it last, when every assumption is noted."""
        return ModelFrame(
            name=name,
            architecture=fields.architecture,
            hidden=self.hidden,
            vocab=self.vocab,
            max_positions=self.max_positions,
            tied=tied,
            assumptions=tuple(fields.assumptions),
        )


def read_sizes(fields: Fields, *, multi_head: bool = False, kv_default: bool = False, head_dim: int = 0) -> Sizes:
    """Layers, widths and heads.

    `multi_head`: the family has as many KV heads as heads and no field for them. `kv_default`: the configuration
    class documents as much for an absent field. `head_dim`: the class's own default; 0 means hidden / heads.
    """
    hidden = fields.count(*HIDDEN)
    heads = fields.count(*HEADS, high=MAX_HEADS)
    if multi_head:
        kv_heads = heads
    else:
        kv_heads = fields.count(*KV_HEADS, high=MAX_HEADS, default=heads if kv_default else None)
        fields.divides(KV_HEADS[0], kv_heads, HEADS[0], heads)
    if head_dim or fields.has(*HEAD_DIM):
        width = fields.count(*HEAD_DIM, default=head_dim)
    else:
        width = fields.divides(HEADS[0], heads, HIDDEN[0], hidden)
    return Sizes(
        layers=fields.count(*LAYERS, high=MAX_LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        vocab=fields.count("vocab_size", high=MAX_VOCAB),
        max_positions=fields.optional_count(*POSITIONS, high=MAX_POSITIONS),
    )


def tied(fields: Fields, default: bool) -> bool:
    """Whether the head is the transposed embedding; `default` is that of the family's configuration class."""
    return fields.flag("tie_word_embeddings", default=default)


def layer_type_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """The window of every layer from `layer_types`; the size of a sliding one is `sliding_window`."""
    words = fields.words("layer_types", ("full_attention", "sliding_attention"), layers)
    window = fields.count("sliding_window", high=MAX_POSITIONS) if "sliding_attention" in words else None
    return tuple(window if word == "sliding_attention" else None for word in words)


def patterned_windows(fields: Fields, layers: int, every: int) -> tuple[int | None, ...]:
    """Windows from `layer_types`, else on all layers but each n-th.

    n is `sliding_window_pattern`, by default the family's `every`.
    """
    if fields.has("layer_types"):
        return layer_type_windows(fields, layers)
    window = fields.count("sliding_window", high=MAX_POSITIONS)
    period = fields.count("sliding_window_pattern", "_sliding_window_pattern", high=MAX_LAYERS, default=every)
    return tuple(window if (index + 1) % period else None for index in range(layers))


def windowed_layers(
    frame: LayerFrame,
    attention: GroupedAttention,
    windows: Sequence[int | None],
    feed_forward: Sequence[Operator],
    name: str = "dense",
) -> list[Block]:
    """One layer per window, equal ones as one block; those with a window are named `sliding…`."""
    blocks: dict[int | None, Block] = {}
    for window in windows:
        if window not in blocks:
            prefix = "" if window is None else "sliding_"
            operators = replace(attention, window=window).operators()
            blocks[window] = frame.layer(f"{prefix}{name}", operators, feed_forward)
    return [blocks[window] for window in windows]

"""Wan: a diffusion transformer over video latents that attends to a text beside each video.

Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models" (arXiv 2503.20314), section 4.2. A sequence is
one video: its latents' patches, frames × height × width, all of which attend to each other.
"""

from __future__ import annotations

from msgspec.structs import replace

from ..attention import GroupedAttention
from ..blocks import FeedForward, norm, residual
from ..fields import MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, Fields
from ..graph import Block, ModelGraph, Run
from ..operators import Elementwise, Linear, Norm, Operator
from .encoders import cross_attention

TEXT_TOKENS = 512
_MODULATIONS = 6  # shift, scale and gate of attention and of the feed-forward
_WHOLE = "rms_norm_across_heads"


def transformer3d(fields: Fields, name: str) -> ModelGraph:
    """Wan in the fields of diffusers' WanTransformer3DModel."""
    for field in ("image_dim", "added_kv_proj_dim"):
        if fields.has(field):
            raise fields.refuse(field, "must be null: of Wan only text to video is known here, without an image")
    if fields.document.get("qk_norm", _WHOLE) != _WHOLE:
        raise fields.refuse("qk_norm", f"must be {_WHOLE}")
    heads, head_dim = fields.count("num_attention_heads", high=MAX_HEADS), fields.count("attention_head_dim")
    return _graph(fields, name, heads, heads * head_dim, (fields.count("in_channels"), fields.count("out_channels")))


def original(fields: Fields, name: str) -> ModelGraph:
    """Wan in the fields of the configuration that its authors publish."""
    if fields.document.get("model_type", "t2v") not in ("t2v", "ti2v"):
        raise fields.refuse("model_type", "must be t2v or ti2v: of Wan only what has no image encoder is known here")
    if fields.document.get("qk_norm", True) is not True:
        raise fields.refuse("qk_norm", "must be true")
    heads, hidden = fields.count("num_heads", high=MAX_HEADS), fields.count("dim")
    fields.divides("num_heads", heads, "dim", hidden)
    return _graph(fields, name, heads, hidden, (fields.count("in_dim"), fields.count("out_dim")))


def _graph(fields: Fields, name: str, heads: int, hidden: int, channels: tuple[int, int]) -> ModelGraph:
    patch = 1
    for side in fields.counts("patch_size", low=1, high=1024, length=3) if fields.has("patch_size") else (1, 2, 2):
        patch *= side
    text = fields.count("text_len", high=MAX_POSITIONS) if fields.has("text_len") else TEXT_TOKENS
    layers = fields.count("num_layers", high=MAX_LAYERS)
    layer = _layer(
        GroupedAttention(
            hidden=hidden,
            heads=heads,
            kv_heads=heads,
            head_dim=hidden // heads,
            qkv_bias=True,
            output_bias=True,
            causal=False,
            qk_norm="full",
        ),
        fields.count("ffn_dim"),
        text,
        fields.flag("cross_attn_norm", default=True),
    )
    embedding = _embedding(fields, hidden, channels[0] * patch, text)
    fields.assume(
        "only the diffusion transformer is in it, not the video and text encoders before it: a sequence is one video's "
        f"latent patches, beside a text of {text} tokens"
    )
    return ModelGraph(
        name=name or fields.architecture,
        architecture=fields.architecture,
        hidden_size=hidden,
        vocab_size=0,
        max_positions=None,
        tied_embeddings=False,
        runs=(
            Run(block=embedding, stack="encoder"),
            Run(block=layer, repeat=layers, stack="encoder"),
            Run(block=_head(hidden, channels[1] * patch), stack="encoder"),
        ),
        assumptions=tuple(fields.assumptions),
    )


def _embedding(fields: Fields, hidden: int, patch_features: int, text: int) -> Block:
    """Patches, the text, and the time step of the noise, of which a video has one and from which come modulations."""

    def linear(name: str, inputs: int, outputs: int, tokens: int) -> Linear:
        return Linear(
            name=name, in_features=inputs, out_features=outputs, split="replicated", bias=True, source_tokens=tokens
        )

    def activation(name: str, tokens: int) -> Elementwise:
        return Elementwise(
            name=f"{name}_activation", in_features=hidden, out_features=hidden, split="sequence", source_tokens=tokens
        )

    operators = (
        linear("patch_embedding", patch_features, hidden, 0),
        linear("text_in", fields.count("text_dim", default=4096), hidden, text),
        activation("text", text),
        linear("text_out", hidden, hidden, text),
        linear("time_in", fields.count("freq_dim"), hidden, 1),
        activation("time", 1),
        linear("time_out", hidden, hidden, 1),
        activation("modulation", 1),
        linear("modulation", hidden, _MODULATIONS * hidden, 1),
    )
    return Block(name="embedding", role="embedding", operators=operators)


def _layer(attention: GroupedAttention, ffn: int, text: int, cross_norm: bool) -> Block:
    """Attention among patches, attention to the text, feed-forward; the first and the last are shifted, scaled and
    gated by the time step."""
    hidden = attention.hidden
    crossing: list[Operator] = []
    for op in cross_attention(attention):
        crossing.append(replace(op, source_tokens=text) if op.name in ("cross_kv", "cross_attention") else op)
        if op.name == "cross_q":
            crossing.append(_whole_norm("cross_q_norm", hidden))
        elif op.name == "cross_kv":
            crossing.append(replace(_whole_norm("cross_k_norm", hidden), source_tokens=text))
    own = (_whole_norm(op.name, hidden) if isinstance(op, Norm) else op for op in attention.operators())
    operators = (
        *_modulated("attention", hidden, _MODULATIONS * hidden),
        *own,
        _gate("attention_output", hidden),
        residual("attention_residual", hidden),
        *((norm("cross_norm", hidden, bias=True),) if cross_norm else ()),
        *crossing,
        residual("cross_residual", hidden),
        *_modulated("mlp", hidden, 0),
        *FeedForward(hidden=hidden, ffn=ffn, gated=False, bias=True).operators(),
        _gate("mlp_output", hidden),
        residual("mlp_residual", hidden),
    )
    return Block(name="dense", role="layer", operators=operators)


def _head(hidden: int, patch_features: int) -> Block:
    output = Linear(name="patch_output", in_features=hidden, out_features=patch_features, split="replicated", bias=True)
    return Block(name="head", role="head", operators=(*_modulated("final", hidden, 2 * hidden), output))


def _whole_norm(name: str, hidden: int) -> Norm:
    return Norm(name=name, features=hidden, weight_features=hidden, split="gathered")


def _modulated(name: str, hidden: int, table: int) -> tuple[Operator, ...]:
    """A norm without weights and what follows from the time step, to which a learned `table` is added."""
    return (
        Norm(name=f"{name}_norm", features=hidden, weight_features=0),
        Elementwise(
            name=f"{name}_modulation",
            in_features=hidden,
            out_features=hidden,
            split="sequence",
            extra_parameters=table,
        ),
    )


def _gate(name: str, hidden: int) -> Elementwise:
    return Elementwise(name=f"{name}_gate", in_features=hidden, out_features=hidden, split="sequence")

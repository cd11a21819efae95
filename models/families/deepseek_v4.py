"""Compressed attention, hyper-connections, hashed routing: DeepSeek V4 (Flash and Pro).

As transformers builds it (models/deepseek_v4); the report calls attention to an entry for every 4 tokens, of which an
indexer picks, compressed sparse (CSA), and to one for every 128 heavily compressed (HCA).
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from ..blocks import norm, runs_of
from ..fields import MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, Fields
from ..graph import Block, ModelGraph, Run
from ..operators import Attention, Elementwise, Embedding, Linear, Norm, Operator
from .common import HEADS, HIDDEN, LAYERS, POSITIONS, tied
from .deepseek import prediction_module
from .experts import read_shared_mixture

_SPARSE, _HEAVY = 4, 128
_OVERLAP = 2  # entries of CSA overlap: each sees the tokens of two strides


class CompressedAttention(msgspec.Struct, frozen=True, kw_only=True):
    """Attention with one key that is its own value for all heads, to a window and to entries of `stride` tokens each.

    With a `stride` of 0 it is to the window only. The output is projected in `groups` of heads, then together.
    """

    hidden: int
    heads: int
    head_dim: int
    rope_dim: int
    q_rank: int
    groups: int
    output_rank: int
    window: int
    stride: int
    index_heads: int
    index_dim: int
    selected: int

    def operators(self) -> tuple[Operator, ...]:
        """Projections and norms of Q and the shared K = V, compression, indexer, attention, grouped output."""
        features, rotated = self.heads * self.head_dim, (self.heads + 1) * self.rope_dim
        sparse = self.stride == _SPARSE
        return (
            Linear(name="q_down", in_features=self.hidden, out_features=self.q_rank, split="replicated"),
            Norm(name="q_norm", features=self.q_rank, weight_features=self.q_rank),
            Linear(name="q_up", in_features=self.q_rank, out_features=features, split="column"),
            Norm(name="q_head_norm", features=features, weight_features=0, split="heads"),
            self._from_hidden("kv", self.head_dim),
            Norm(name="kv_norm", features=self.head_dim, weight_features=self.head_dim),
            Elementwise(name="rope", in_features=rotated, out_features=rotated, split="heads", saved=False),
            *(self._compressor("compressed", self.head_dim) if self.stride else ()),
            *(self._indexer() if sparse else ()),
            Attention(
                name="core_attention",
                heads=self.heads,
                kv_heads=1,
                qk_head_dim=self.head_dim,
                v_head_dim=self.head_dim,
                window=self.window,
                stride=self.stride or None,
                selected=self.selected if sparse else None,
                latent_features=self.head_dim,
                extra_parameters=self.heads,
            ),
            Elementwise(name="rope_back", in_features=features, out_features=features, split="heads"),
            Linear(
                name="group_output",
                in_features=features // self.groups,
                out_features=self.groups * self.output_rank,
                split="column",
                shared_input=True,
            ),
            Linear(
                name="attention_output",
                in_features=self.groups * self.output_rank,
                out_features=self.hidden,
                split="row",
            ),
        )

    def _from_hidden(self, name: str, features: int) -> Linear:
        return Linear(name=name, in_features=self.hidden, out_features=features, split="replicated", shared_input=True)

    def _compressor(self, name: str, width: int) -> tuple[Operator, ...]:
        """An entry is the mean of a stride's keys by learned gates and a bias for every place in it."""
        features = width * (_OVERLAP if self.stride == _SPARSE else 1)
        return (
            self._from_hidden(f"{name}_kv", features),
            self._from_hidden(f"{name}_gate", features),
            Elementwise(
                name=f"{name}_pool",
                in_features=2 * features,
                out_features=width // self.stride,
                split="sequence",
                extra_parameters=self.stride * features,
            ),
            Norm(name=f"{name}_norm", features=width // self.stride, weight_features=width),
        )

    def _indexer(self) -> tuple[Operator, ...]:
        queries = self.index_heads * self.index_dim
        return (
            *self._compressor("index", self.index_dim),
            Linear(
                name="index_q", in_features=self.q_rank, out_features=queries, split="replicated", shared_input=True
            ),
            self._from_hidden("index_weights", self.index_heads),
            Attention(
                name="index_scores",
                heads=self.index_heads,
                kv_heads=1,
                qk_head_dim=self.index_dim,
                v_head_dim=0,
                window=1,
                stride=self.stride,
            ),
        )


class HyperConnections(msgspec.Struct, frozen=True, kw_only=True):
    """`streams` residual streams, mixed into one vector before a branch and spread over again after it (mHC)."""

    hidden: int
    streams: int

    def branch(self, name: str, operators: tuple[Operator, ...]) -> tuple[Operator, ...]:
        """One normed branch between the streams; its weights come from all of them."""
        wide = self.streams * self.hidden
        mixes = self.streams * (2 + self.streams)
        return (
            *self._mixed(name, mixes, mixes + 3),
            norm(f"{name}_norm", self.hidden),
            *operators,
            Elementwise(name=f"{name}_spread", in_features=self.hidden, out_features=wide, split="sequence"),
            Elementwise(
                name=f"{name}_residual", in_features=2 * wide, out_features=wide, split="sequence", saved=False
            ),
        )

    def collapsed(self) -> tuple[Operator, ...]:
        """The streams as one vector, before the final norm."""
        return self._mixed("head", self.streams, self.streams + 1)

    def _mixed(self, name: str, mixes: int, constants: int) -> tuple[Operator, ...]:
        wide = self.streams * self.hidden
        return (
            Norm(name=f"{name}_streams_norm", features=wide, weight_features=0),
            Linear(name=f"{name}_mix", in_features=wide, out_features=mixes, split="replicated", shared_input=True),
            Elementwise(
                name=f"{name}_collapse",
                in_features=wide,
                out_features=self.hidden,
                split="sequence",
                saved=False,
                extra_parameters=constants,
            ),
        )


def deepseek_v4(fields: Fields, name: str) -> ModelGraph:
    """DeepSeek V4; `compress_ratios` names the stride of every layer (0: a window only), then of prediction modules.

    Tokens of the first `num_hash_layers` choose experts by a table, which changes no size.
    """
    hidden = fields.count(*HIDDEN)
    layers = fields.count(*LAYERS, high=MAX_LAYERS)
    modules = fields.count("num_nextn_predict_layers", low=0, high=MAX_LAYERS)
    strides = fields.counts("compress_ratios", low=0, high=_HEAVY, length=layers + modules)
    if not set(strides) <= {0, _SPARSE, _HEAVY}:
        raise fields.refuse("compress_ratios", f"must name strides of 0, {_SPARSE} or {_HEAVY}")
    attention = _read_attention(fields, hidden)
    streams = HyperConnections(hidden=hidden, streams=fields.count("hc_mult", high=MAX_HEADS))
    mixture = read_shared_mixture(fields, hidden).operators()
    blocks = {stride: _layer(streams, replace(attention, stride=stride), mixture) for stride in dict.fromkeys(strides)}
    vocab = fields.count("vocab_size", high=MAX_VOCAB)
    is_tied = tied(fields, False)
    head = (
        *streams.collapsed(),
        norm("final_norm", hidden),
        Linear(name="lm_head", in_features=hidden, out_features=vocab, split="vocab", tied=is_tied),
    )
    table = Embedding(name="token_embedding", rows=vocab, features=hidden)
    predicting = [prediction_module(hidden, vocab, blocks[stride].operators) for stride in strides[layers:]]
    return ModelGraph(
        name=name or fields.architecture,
        architecture=fields.architecture,
        hidden_size=hidden,
        vocab_size=vocab,
        max_positions=fields.optional_count(*POSITIONS, high=MAX_POSITIONS),
        tied_embeddings=is_tied,
        runs=(
            Run(block=Block(name="embedding", role="embedding", operators=(table,))),
            *runs_of([blocks[stride] for stride in strides[:layers]]),
            Run(block=Block(name="head", role="head", operators=head)),
            *runs_of(predicting),
        ),
        assumptions=tuple(fields.assumptions),
        streams=streams.streams,
    )


def _read_attention(fields: Fields, hidden: int) -> CompressedAttention:
    heads = fields.count(*HEADS, high=MAX_HEADS)
    groups = fields.count("o_groups", high=MAX_HEADS)
    fields.divides("o_groups", groups, HEADS[0], heads)
    if fields.count("num_key_value_heads", default=1) != 1:
        raise fields.refuse("num_key_value_heads", "must be 1 in this architecture")
    return CompressedAttention(
        hidden=hidden,
        heads=heads,
        head_dim=fields.count("head_dim"),
        rope_dim=fields.count("qk_rope_head_dim"),
        q_rank=fields.count("q_lora_rank"),
        groups=groups,
        output_rank=fields.count("o_lora_rank"),
        window=fields.count("sliding_window", high=MAX_POSITIONS),
        stride=0,
        index_heads=fields.count("index_n_heads", high=MAX_HEADS),
        index_dim=fields.count("index_head_dim"),
        selected=fields.count("index_topk", high=MAX_POSITIONS),
    )


def _layer(streams: HyperConnections, attention: CompressedAttention, mixture: tuple[Operator, ...]) -> Block:
    kind = {0: "window", _SPARSE: "sparse", _HEAVY: "heavy"}[attention.stride]
    operators = (*streams.branch("attention", attention.operators()), *streams.branch("mlp", mixture))
    return Block(name=f"{kind}_moe", role="layer", operators=operators)

"""Builders of attention with its projections: grouped queries and latent (MLA)."""

from __future__ import annotations

from typing import Literal

import msgspec

from .operators import Attention, Elementwise, Linear, Norm, Operator


class GroupedAttention(msgspec.Struct, frozen=True, kw_only=True):
    """Multi-head, grouped-query or multi-query attention with its projections.

    `qk_norm`: a norm of Q and K, per head with one weight vector for all (`head`), with a weight for every feature
    (`full`), or without weights (`unweighted`). `gate_features` are further outputs that gate the result.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    window: int | None = None
    chunked: bool = False
    causal: bool = True
    rope: bool = True
    qk_norm: Literal["none", "head", "full", "unweighted"] = "none"
    norm_bias: bool = False
    extra_parameters: int = 0
    gate_features: int = 0

    def operators(self) -> tuple[Operator, ...]:
        """Projection, norms and rotation, attention, output projection."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        projection = Linear(
            name="qkv",
            in_features=self.hidden,
            out_features=q + 2 * kv + self.gate_features,
            split="column",
            bias=self.qkv_bias,
            kv_features=2 * kv,
            kv_heads=self.kv_heads,
        )
        middle: list[Operator] = []
        if self.qk_norm != "none":
            for name, features in (("q_norm", q), ("k_norm", kv)):
                weight = {"head": self.head_dim, "full": features, "unweighted": 0}[self.qk_norm]
                middle.append(
                    Norm(name=name, features=features, weight_features=weight, bias=self.norm_bias, split="heads")
                )
        if self.rope:
            middle.append(Elementwise(name="rope", in_features=q + kv, out_features=q + kv, split="heads", saved=False))
        core = Attention(
            name="core_attention",
            heads=self.heads,
            kv_heads=self.kv_heads,
            qk_head_dim=self.head_dim,
            v_head_dim=self.head_dim,
            window=self.window,
            chunked=self.chunked,
            causal=self.causal,
            extra_parameters=self.extra_parameters,
        )
        output = Linear(
            name="attention_output", in_features=q, out_features=self.hidden, split="row", bias=self.output_bias
        )
        gate = self._gate()
        return (projection, *middle, core, *gate, output)

    def _gate(self) -> tuple[Operator, ...]:
        if not self.gate_features:
            return ()
        q = self.heads * self.head_dim
        return (Elementwise(name="attention_gate", in_features=q + self.gate_features, out_features=q, split="heads"),)


class LatentAttention(msgspec.Struct, frozen=True, kw_only=True):
    """Multi-head latent attention (MLA): DeepSeek-V2 paper (arXiv 2405.04434), section 2.1.

    `q_rank` of None leaves Q uncompressed (DeepSeek-V2-Lite). With `selected`, attention is to that many tokens, which
    an indexer of `index_heads` heads picks by its own keys (DeepSeek-V3.2-Exp report, section 1); `index_heads` of 0
    uses the choice of a layer before.
    """

    hidden: int
    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    bias: bool = False
    selected: int | None = None
    index_heads: int = 0
    index_dim: int = 0

    def indexer(self) -> tuple[Operator, ...]:
        """What picks the tokens to attend to; every tp rank runs all of it."""
        if not self.index_heads or self.q_rank is None:
            return ()
        return (
            Linear(
                name="index_q",
                in_features=self.q_rank,
                out_features=self.index_heads * self.index_dim,
                split="replicated",
                shared_input=True,
            ),
            Linear(
                name="index_k",
                in_features=self.hidden,
                out_features=self.index_dim,
                split="replicated",
                shared_input=True,
            ),
            Norm(name="index_k_norm", features=self.index_dim, weight_features=self.index_dim, bias=True),
            Linear(
                name="index_weights",
                in_features=self.hidden,
                out_features=self.index_heads,
                split="replicated",
                shared_input=True,
            ),
            Attention(
                name="index_scores", heads=self.index_heads, kv_heads=1, qk_head_dim=self.index_dim, v_head_dim=0
            ),
        )

    def operators(self) -> tuple[Operator, ...]:
        """Down-projections, norms, up-projections, attention, output projection."""
        q_features = self.heads * (self.nope_dim + self.rope_dim)
        query: tuple[Operator, ...]
        if self.q_rank is None:
            query = (Linear(name="q", in_features=self.hidden, out_features=q_features, split="column"),)
        else:
            query = (
                Linear(
                    name="q_down",
                    in_features=self.hidden,
                    out_features=self.q_rank,
                    split="replicated",
                    bias=self.bias,
                ),
                Norm(name="q_norm", features=self.q_rank, weight_features=self.q_rank),
                Linear(name="q_up", in_features=self.q_rank, out_features=q_features, split="column"),
            )
        rotated = (self.heads + 1) * self.rope_dim
        return (
            *query,
            Linear(
                name="kv_down",
                in_features=self.hidden,
                out_features=self.kv_rank + self.rope_dim,
                split="replicated",
                bias=self.bias,
                shared_input=True,
            ),
            Norm(name="kv_norm", features=self.kv_rank, weight_features=self.kv_rank),
            Linear(
                name="kv_up",
                in_features=self.kv_rank,
                out_features=self.heads * (self.nope_dim + self.v_dim),
                split="column",
            ),
            Elementwise(name="rope", in_features=rotated, out_features=rotated, split="heads", saved=False),
            *self.indexer(),
            Attention(
                name="core_attention",
                heads=self.heads,
                kv_heads=self.heads,
                qk_head_dim=self.nope_dim + self.rope_dim,
                v_head_dim=self.v_dim,
                latent_features=self.kv_rank,
                rope_features=self.rope_dim,
                selected=self.selected,
            ),
            Linear(
                name="attention_output",
                in_features=self.heads * self.v_dim,
                out_features=self.hidden,
                split="row",
                bias=self.bias,
            ),
        )

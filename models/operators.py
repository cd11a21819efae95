"""Operators: the shapes from which parameters, FLOPs, bytes and activations all follow.

Every count is for one token of the whole, unsharded model. `Split` says what tensor parallelism does to an operator:

- `column`, `row`: the weight is divided over tp ranks along its outputs or its inputs;
- `heads`: the work is divided by attention heads (or state-space heads, or channels);
- `vocab`: the table is divided along the vocabulary;
- `sequence`: every tp rank holds the weight; the activations are divided only under sequence parallelism (sp);
- `replicated`: every tp rank holds the weight and does all the work (MLA down-projections, routers).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Split = Literal["column", "row", "heads", "vocab", "sequence", "replicated"]


class _Operator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", kw_only=True):
    name: str

    @property
    def parameters(self) -> int:
        """Weights held, all tp ranks and all experts together."""
        return 0

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes through."""
        return self.parameters

    @property
    def flops_per_token(self) -> int:
        """Multiply and add each counted as one, forward, what grows with the context left out."""
        return 0

    @property
    def saved_elements(self) -> int:
        """Elements per token kept from forward for backward: this operator's own inputs."""
        return 0


class Linear(_Operator, frozen=True, tag="linear"):
    """y = x W (+ b); one GEMM of [tokens, in_features] × [in_features, out_features].

    A tied weight is another operator's: it is computed with but not counted here.
    """

    in_features: int
    out_features: int
    split: Split
    bias: bool = False
    tied: bool = False

    @property
    def parameters(self) -> int:
        weight = 0 if self.tied else self.in_features * self.out_features
        return weight + (self.out_features if self.bias else 0)

    @property
    def active_parameters(self) -> int:
        return self.in_features * self.out_features + (self.out_features if self.bias else 0)

    @property
    def flops_per_token(self) -> int:
        return 2 * self.in_features * self.out_features

    @property
    def saved_elements(self) -> int:
        return self.in_features


class Embedding(_Operator, frozen=True, tag="embedding"):
    """A table look-up: vocabulary, learned positions, or token types."""

    rows: int
    features: int
    split: Split = "vocab"

    @property
    def parameters(self) -> int:
        return self.rows * self.features

    @property
    def active_parameters(self) -> int:
        return self.features


class Norm(_Operator, frozen=True, tag="norm"):
    """RMSNorm (weight only) or LayerNorm (weight and bias), over `features` in groups of `weight_features`.

    `split` is `sequence` for the norms of the residual stream and `heads` for norms inside the attention heads.
    """

    features: int
    weight_features: int
    bias: bool = False
    split: Split = "sequence"

    @property
    def parameters(self) -> int:
        return self.weight_features * (2 if self.bias else 1)

    @property
    def saved_elements(self) -> int:
        return self.features


class Elementwise(_Operator, frozen=True, tag="elementwise"):
    """An activation, gate or residual addition: reads `in_features`, writes `out_features`, keeps its input."""

    in_features: int
    out_features: int
    split: Split
    saved: bool = True
    extra_parameters: int = 0

    @property
    def parameters(self) -> int:
        return self.extra_parameters

    @property
    def saved_elements(self) -> int:
        return self.in_features if self.saved else 0


class Attention(_Operator, frozen=True, tag="attention"):
    """Softmax attention over `heads` query heads and `kv_heads` key/value heads.

    `window` limits the context (None: all of it). With `latent_features` (MLA) the cache keeps one latent vector of
    that many elements plus `rope_features` shared by all heads, and tp cannot divide it. `cross` attends to the
    encoder's output, cached once per request.
    """

    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int
    window: int | None = None
    causal: bool = True
    cross: bool = False
    latent_features: int = 0
    rope_features: int = 0
    extra_parameters: int = 0

    @property
    def parameters(self) -> int:
        return self.extra_parameters

    @property
    def flops_per_token_and_context(self) -> int:
        """FLOPs per query token and per attended token: Q K^T and P V."""
        return 2 * self.heads * (self.qk_head_dim + self.v_head_dim)

    @property
    def cached_elements(self) -> int:
        """Elements added to the KV cache per token, unsharded."""
        if self.latent_features:
            return self.latent_features + self.rope_features
        return self.kv_heads * (self.qk_head_dim + self.v_head_dim)

    def cached_elements_per_rank(self, tp: int) -> int:
        """Elements per token on one tp rank: KV heads are divided, then replicated; a latent is never divided."""
        if self.latent_features:
            return self.cached_elements
        return -(-self.kv_heads // tp) * (self.qk_head_dim + self.v_head_dim)

    def mean_context(self, sequence: int) -> float:
        """Attended tokens per query, averaged over a sequence of that length."""
        if not self.causal:
            return float(sequence)
        if self.window is None or self.window >= sequence:
            return (sequence + 1) / 2
        w = self.window
        return w - w * (w - 1) / 2 / sequence

    @property
    def saved_elements(self) -> int:
        """Q, K and V; the output is the next operator's input."""
        return self.heads * self.qk_head_dim + self.kv_heads * (self.qk_head_dim + self.v_head_dim)


class Scan(_Operator, frozen=True, tag="scan"):
    """A state-space or linear-attention recurrence: constant state per sequence instead of a growing cache.

    `scan_flops_per_token` counts the recurrence and its short convolution; `state_elements` is what one sequence
    keeps while decoding (recurrent and convolution state).
    """

    features: int
    state_elements: int
    scan_flops_per_token: int
    saved: int
    extra_parameters: int = 0
    split: Split = "heads"

    @property
    def parameters(self) -> int:
        return self.extra_parameters

    @property
    def flops_per_token(self) -> int:
        return self.scan_flops_per_token

    @property
    def saved_elements(self) -> int:
        return self.saved


class Experts(_Operator, frozen=True, tag="experts"):
    """`experts` equal feed-forward networks, `topk` of which see each token; `body` is one expert's operators."""

    experts: int
    topk: int
    body: tuple[Linear | Elementwise, ...]

    @property
    def parameters(self) -> int:
        return self.experts * sum(op.parameters for op in self.body)

    @property
    def active_parameters(self) -> int:
        return self.topk * sum(op.active_parameters for op in self.body)

    @property
    def flops_per_token(self) -> int:
        return self.topk * sum(op.flops_per_token for op in self.body)

    @property
    def saved_elements(self) -> int:
        return self.topk * sum(op.saved_elements for op in self.body)


Operator = Linear | Embedding | Norm | Elementwise | Attention | Scan | Experts

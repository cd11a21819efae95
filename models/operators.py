"""Operators: the shapes from which parameters, FLOPs, bytes and activations all follow.

Every count is for one token of the whole, unsharded model. `Split` says what tensor parallelism does to an operator:

- `column`, `row`: the weight is divided over tp ranks along its outputs or its inputs;
- `heads`: the work is divided by attention heads (or state-space heads, or channels);
- `vocab`: the table is divided along the vocabulary;
- `sequence`: every tp rank holds the weight; the activations are divided only under sequence parallelism (sp);
- `replicated`: every tp rank holds the weight and does all the work (MLA down-projections, routers), on its own part
  of the tokens under sp;
- `gathered`: the same on all tokens, whose features tp divides otherwise and gathers first (norms across heads).

What tp does not divide evenly is rounded up: the count of the fullest rank.

Names are unique in a block and follow one scheme, on which cost models may rely: `mlp_…`, `expert_…` and `shared_…` for
dense, routed and shared feed-forwards, `…_norm` and `…_residual` around branches, `…_activation` and `…_gate` for
elementwise work that backward needs again, `rope`, `core_attention`, `router`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Split = Literal["column", "row", "heads", "vocab", "sequence", "replicated", "gathered"]


def ceil_divide(count: int, ways: int) -> int:
    """The largest part of `count` divided as evenly as possible."""
    return -(-count // ways)


class _Operator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", kw_only=True):
    """With `source_tokens` it runs, instead of over the sequence, over that many tokens that stand beside every one
    whatever its length, such as a video's text; attention runs over the sequence and attends to those. Every tp rank
    has all of them, under sp too."""

    name: str
    source_tokens: int = 0

    @property
    def parameters(self) -> int:
        """Weights held, all tp ranks and all experts together."""
        return 0

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes through; a tied weight is passed through though it is not held here."""
        return self.parameters

    @property
    def flops_per_token(self) -> int:
        """Multiply and add each counted as one, forward, what grows with the context left out."""
        return 0

    @property
    def saved_elements(self) -> int:
        """Elements per token kept from forward for backward: this operator's own inputs."""
        return 0

    def parameters_per_rank(self, tp: int) -> int:
        """Weights on one of tp ranks, every expert included."""
        return self.parameters

    def saved_elements_per_rank(self, tp: int, sp: bool) -> int:
        """Elements per token kept on one of tp ranks.

        Under sp the kept part of a gathered input is the rank's own shard, gathered again in backward (Korthikanti et
        al., "Reducing Activation Recomputation in Large Transformer Models", section 4.2.2).
        """
        return ceil_divide(self.saved_elements, tp) if sp else self.saved_elements


class Linear(_Operator, frozen=True, tag="linear"):
    """y = x W (+ b); one GEMM of [tokens, in_features] × [in_features, out_features].

    A tied weight is another operator's: it is computed with but not counted here. Of a fused QKV projection
    `kv_features` outputs belong to `kv_heads` key/value heads, which tp divides and beyond their number copies.
    `shared_input` marks an input that an earlier operator of the block keeps already. `source` marks a projection of
    the encoder's output inside a decoder: it runs once per source token, not per target token.
    """

    in_features: int
    out_features: int
    split: Split
    bias: bool = False
    tied: bool = False
    shared_input: bool = False
    source: bool = False
    kv_features: int = 0
    kv_heads: int = 0

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
        return 0 if self.shared_input else self.in_features

    def in_features_per_rank(self, tp: int) -> int:
        """Rows of the GEMM's weight on one of tp ranks."""
        return ceil_divide(self.in_features, tp) if self.split in ("row", "heads") else self.in_features

    def out_features_per_rank(self, tp: int) -> int:
        """Columns of the GEMM's weight on one of tp ranks."""
        if self.split not in ("column", "vocab"):
            return self.out_features
        if not self.kv_heads:
            return ceil_divide(self.out_features, tp)
        kv = self.kv_features // self.kv_heads * ceil_divide(self.kv_heads, tp)
        return ceil_divide(self.out_features - self.kv_features, tp) + kv

    def parameters_per_rank(self, tp: int) -> int:
        outputs = self.out_features_per_rank(tp)
        weight = 0 if self.tied else self.in_features_per_rank(tp) * outputs
        return weight + (outputs if self.bias else 0)

    def saved_elements_per_rank(self, tp: int, sp: bool) -> int:
        divided = sp or self.split in ("row", "heads")
        return ceil_divide(self.saved_elements, tp) if divided else self.saved_elements


class Embedding(_Operator, frozen=True, tag="embedding"):
    """A table look-up: vocabulary, learned positions, or token types. A tied table is another operator's."""

    rows: int
    features: int
    split: Split = "vocab"
    tied: bool = False

    @property
    def parameters(self) -> int:
        return 0 if self.tied else self.rows * self.features

    @property
    def active_parameters(self) -> int:
        """None: a look-up multiplies with no weight."""
        return 0

    def parameters_per_rank(self, tp: int) -> int:
        if self.split == "vocab" and not self.tied:
            return ceil_divide(self.rows, tp) * self.features
        return self.parameters


class Norm(_Operator, frozen=True, tag="norm"):
    """RMSNorm (weight only) or LayerNorm (weight and bias), over `features` in groups of `weight_features`.

    `split` is `sequence` for the norms of the residual stream and `heads` for norms inside the attention heads.
    `weight_features` is 0 for a norm without weights. A norm over divided features whose weight spans all of them
    (`weight_features` equal to `features`) has its weight divided as well.
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

    def parameters_per_rank(self, tp: int) -> int:
        if self.split == "heads" and self.weight_features == self.features:
            return ceil_divide(self.parameters, tp)
        return self.parameters

    def saved_elements_per_rank(self, tp: int, sp: bool) -> int:
        divided = self.split == "heads" or (sp and self.split != "gathered")
        return ceil_divide(self.features, tp) if divided else self.features


class Elementwise(_Operator, frozen=True, tag="elementwise"):
    """An activation, gate, rotation or residual addition: reads `in_features`, writes `out_features`.

    Its input is kept for backward unless `saved` is false (additions, rotations).
    """

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

    def parameters_per_rank(self, tp: int) -> int:
        return ceil_divide(self.parameters, tp) if self.split in ("column", "row", "heads") else self.parameters

    def saved_elements_per_rank(self, tp: int, sp: bool) -> int:
        divided = sp or self.split in ("column", "row", "heads")
        return ceil_divide(self.saved_elements, tp) if divided else self.saved_elements


class Attention(_Operator, frozen=True, tag="attention"):
    """Softmax attention over `heads` query heads and `kv_heads` key/value heads.

    `window` limits the context (None: all of it): to the last `window` tokens, or, if `chunked`, to the tokens of
    the same aligned chunk of that length. With `latent_features` (MLA) the cache keeps one latent vector of that many
    elements plus `rope_features` shared by all heads, and tp cannot divide it. `selected` limits the context to that
    many tokens chosen by an indexer (sparse attention), all of which stay cached. With a `stride` (compressed
    attention) an entry for every so many tokens is attended to beside the window, or `selected` of them. `cross`
    attends to the encoder's output, cached once per request.
    """

    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int
    window: int | None = None
    chunked: bool = False
    selected: int | None = None
    stride: int | None = None
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
    def absorbed_flops_per_token_and_context(self) -> int:
        """The same while decoding: MLA folds its up-projections into Q and the output and attends to the latent.

        DeepSeek-V2 paper (arXiv 2405.04434), section 2.1.2; without a latent nothing changes.
        """
        if not self.latent_features:
            return self.flops_per_token_and_context
        return 2 * self.heads * (2 * self.latent_features + self.rope_features)

    @property
    def cached_elements(self) -> int:
        """Elements added to the KV cache per token, unsharded; 0 for attention that is not causal or not to itself."""
        if self.cross or not self.causal:
            return 0
        return self.context_elements

    @property
    def context_elements(self) -> int:
        """Elements of K and V (or of the latent) per attended token."""
        if self.latent_features:
            return self.latent_features + self.rope_features
        return self.kv_heads * (self.qk_head_dim + self.v_head_dim)

    def context_elements_per_rank(self, tp: int) -> int:
        """`context_elements` on one tp rank: KV heads are divided, then copied; a latent is never divided."""
        if self.latent_features:
            return self.context_elements
        return ceil_divide(self.kv_heads, tp) * (self.qk_head_dim + self.v_head_dim)

    def cached_elements_per_rank(self, tp: int) -> int:
        """Elements per token of the KV cache on one tp rank."""
        return self.context_elements_per_rank(tp) if self.cached_elements else 0

    def cached_tokens(self, context: int) -> int:
        """Entries of a `context` that stay cached."""
        kept = context if self.window is None else min(self.window, context)
        return kept + (context // self.stride if self.stride else 0)

    def mean_context(self, sequence: int) -> float:
        """Attended tokens per query, averaged over a sequence of that length."""
        if not self.causal:
            return float(self.source_tokens or sequence)
        if self.stride is not None:
            near = _mean_of_last(self.window or sequence, sequence)
            return near + _mean_of_last((self.selected or sequence) * self.stride, sequence) / self.stride
        if self.selected is not None:
            return _mean_of_last(self.selected, sequence)
        if self.window is None or self.window >= sequence:
            return (sequence + 1) / 2
        if not self.chunked:
            return _mean_of_last(self.window, sequence)
        chunks, rest = divmod(sequence, self.window)
        return (chunks * self.window * (self.window + 1) + rest * (rest + 1)) / (2 * sequence)

    @property
    def saved_elements(self) -> int:
        """Q, K and V; the output is the next operator's input. K and V of `source_tokens` are kept once per those."""
        kv = 0 if self.source_tokens else self.kv_heads * (self.qk_head_dim + self.v_head_dim)
        return self.heads * self.qk_head_dim + kv

    def parameters_per_rank(self, tp: int) -> int:
        return ceil_divide(self.parameters, tp)

    def saved_elements_per_rank(self, tp: int, sp: bool) -> int:
        kv = 0 if self.source_tokens else ceil_divide(self.kv_heads, tp) * (self.qk_head_dim + self.v_head_dim)
        return ceil_divide(self.heads, tp) * self.qk_head_dim + kv


def _mean_of_last(window: int, sequence: int) -> float:
    """Mean over positions 1…sequence of min(position, window)."""
    if window >= sequence:
        return (sequence + 1) / 2
    return window - window * (window - 1) / 2 / sequence


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

    def state_elements_per_rank(self, tp: int) -> int:
        """`state_elements` on one tp rank."""
        return ceil_divide(self.state_elements, tp)

    def parameters_per_rank(self, tp: int) -> int:
        return ceil_divide(self.parameters, tp)

    def saved_elements_per_rank(self, tp: int, sp: bool) -> int:
        return ceil_divide(self.saved, tp)


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

    def parameters_per_rank(self, tp: int, ep: int = 1) -> int:
        """Weights on one rank when `tp` ranks divide each expert (etp) and `ep` ranks divide the experts."""
        return ceil_divide(self.experts, ep) * sum(op.parameters_per_rank(tp) for op in self.body)


Operator = Linear | Embedding | Norm | Elementwise | Attention | Scan | Experts

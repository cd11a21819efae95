"""Builders of blocks: feed-forward and mixture operators, the layers made with them, and what surrounds layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

import msgspec

from .graph import Block, ModelGraph, Run, Stack
from .operators import Elementwise, Embedding, Experts, Linear, Norm, Operator


class FeedForward(msgspec.Struct, frozen=True, kw_only=True):
    """A feed-forward network: gated (gate and up fused, activation × up, down) or plain (up, activation, down)."""

    hidden: int
    ffn: int
    gated: bool
    bias: bool = False
    prefix: str = "mlp"
    shared_input: bool = False

    def operators(self) -> tuple[Linear | Elementwise, ...]:
        """Up-projection, activation, down-projection."""
        inner = 2 * self.ffn if self.gated else self.ffn
        return (
            Linear(
                name=f"{self.prefix}_{'gate_up' if self.gated else 'up'}",
                in_features=self.hidden,
                out_features=inner,
                split="column",
                bias=self.bias,
                shared_input=self.shared_input,
            ),
            Elementwise(name=f"{self.prefix}_activation", in_features=inner, out_features=self.ffn, split="column"),
            Linear(
                name=f"{self.prefix}_down",
                in_features=self.ffn,
                out_features=self.hidden,
                split="row",
                bias=self.bias,
            ),
        )


class Mixture(msgspec.Struct, frozen=True, kw_only=True):
    """A mixture of experts with its router and, if `shared_ffn` is set, an expert that sees every token.

    `expert_hidden` is the width that tokens are projected to before they are dispatched (latent mixtures);
    `dense_bias` gives biases to the shared expert and to those projections.
    """

    hidden: int
    experts: int
    topk: int
    ffn: int
    gated: bool = True
    expert_bias: bool = False
    router_bias: bool = False
    shared_ffn: int = 0
    shared_gate: bool = False
    dense_bias: bool = False
    expert_hidden: int | None = None

    def operators(self) -> tuple[Operator, ...]:
        """Router, routed experts, weighted sum, shared expert."""
        width = self.expert_hidden or self.hidden
        body = FeedForward(hidden=width, ffn=self.ffn, gated=self.gated, bias=self.expert_bias, prefix="expert")
        routed: list[Operator] = [
            Linear(
                name="router",
                in_features=self.hidden,
                out_features=self.experts,
                split="replicated",
                bias=self.router_bias,
            )
        ]
        experts = Experts(name="experts", experts=self.experts, topk=self.topk, body=body.operators())
        combine = Elementwise(
            name="expert_combine", in_features=self.topk * width, out_features=width, split="sequence", saved=False
        )
        if self.expert_hidden is None:
            routed += [experts, combine]
        else:
            routed += [
                Linear(
                    name="latent_down",
                    in_features=self.hidden,
                    out_features=width,
                    split="replicated",
                    bias=self.dense_bias,
                    shared_input=True,
                ),
                experts,
                combine,
                Linear(
                    name="latent_up",
                    in_features=width,
                    out_features=self.hidden,
                    split="replicated",
                    bias=self.dense_bias,
                ),
            ]
        if self.shared_ffn:
            shared = FeedForward(
                hidden=self.hidden,
                ffn=self.shared_ffn,
                gated=self.gated,
                bias=self.dense_bias,
                prefix="shared",
                shared_input=True,
            )
            routed += shared.operators()
        if self.shared_gate:
            routed.append(
                Linear(
                    name="shared_gate", in_features=self.hidden, out_features=1, split="replicated", shared_input=True
                )
            )
        return tuple(routed)


def norm(name: str, hidden: int, bias: bool = False) -> Norm:
    """A norm of the residual stream: RMSNorm, or LayerNorm with a bias."""
    return Norm(name=name, features=hidden, weight_features=hidden, bias=bias)


def residual(name: str, hidden: int, branches: int = 1) -> Elementwise:
    """The addition of branches to the residual stream."""
    return Elementwise(
        name=name, in_features=(1 + branches) * hidden, out_features=hidden, split="sequence", saved=False
    )


class LayerFrame(msgspec.Struct, frozen=True, kw_only=True):
    """How the residual stream of a layer is normed and added to.

    `norms`: before each branch (`pre`), after each (`post`), both (`sandwich`), after each addition (`outer`, as in
    BERT), or one norm before two parallel branches (`parallel`), or one for each parallel branch (`parallel-two`).
    """

    hidden: int
    norm_bias: bool = False
    norms: Literal["pre", "post", "sandwich", "outer", "parallel", "parallel-two"] = "pre"

    def layer(self, name: str, mixer: Sequence[Operator], ffn: Sequence[Operator]) -> Block:
        """A layer of a token mixer and a feed-forward part."""
        if self.norms.startswith("parallel"):
            return self._parallel(name, mixer, ffn)
        operators = (*self.branch("attention", mixer), *self.branch("mlp", ffn))
        return Block(name=name, role="layer", operators=operators)

    def branch(self, name: str, operators: Sequence[Operator]) -> tuple[Operator, ...]:
        """One normed branch and its addition."""
        before = self.norms in ("pre", "sandwich")
        after = self.norms in ("post", "sandwich")
        return (
            *((norm(f"{name}_norm", self.hidden, self.norm_bias),) if before else ()),
            *operators,
            *((norm(f"{name}_post_norm", self.hidden, self.norm_bias),) if after else ()),
            residual(f"{name}_residual", self.hidden),
            *((norm(f"{name}_norm", self.hidden, self.norm_bias),) if self.norms == "outer" else ()),
        )

    def _parallel(self, name: str, mixer: Sequence[Operator], ffn: Sequence[Operator]) -> Block:
        first, *rest = ffn
        if self.norms == "parallel" and isinstance(first, Linear):
            first = msgspec.structs.replace(first, shared_input=True)
        second = (norm("mlp_norm", self.hidden, self.norm_bias),) if self.norms == "parallel-two" else ()
        operators = (
            norm("attention_norm", self.hidden, self.norm_bias),
            *mixer,
            *second,
            first,
            *rest,
            residual("residual", self.hidden, branches=2),
        )
        return Block(name=name, role="layer", operators=operators, parallel=True)


class ModelFrame(msgspec.Struct, frozen=True, kw_only=True):
    """What surrounds the layers of a decoder-only model."""

    name: str
    architecture: str
    hidden: int
    vocab: int
    max_positions: int | None
    tied: bool
    learned_positions: int = 0
    embedding_norm: bool = False
    embedding_width: int | None = None
    final_norm: bool = True
    norm_bias: bool = False
    head_bias: bool = False
    assumptions: tuple[str, ...] = ()

    def model(self, layers: Iterable[Block], mtp: Iterable[Block] = ()) -> ModelGraph:
        """The chain: embedding, layers, head, and multi-token-prediction modules after it."""
        return ModelGraph(
            name=self.name or self.architecture,
            architecture=self.architecture,
            hidden_size=self.hidden,
            vocab_size=self.vocab,
            max_positions=self.max_positions,
            tied_embeddings=self.tied,
            runs=(Run(block=self.embedding()), *runs_of(layers), Run(block=self.head()), *runs_of(mtp)),
            assumptions=self.assumptions,
        )

    def embedding(self) -> Block:
        """Vocabulary table, learned positions, projection and norm of the embedding."""
        width = self.embedding_width or self.hidden
        operators: list[Operator] = [Embedding(name="token_embedding", rows=self.vocab, features=width)]
        if width != self.hidden:
            operators.append(
                Linear(name="embedding_projection", in_features=width, out_features=self.hidden, split="replicated")
            )
        if self.learned_positions:
            operators.append(
                Embedding(
                    name="position_embedding", rows=self.learned_positions, features=self.hidden, split="replicated"
                )
            )
        if self.embedding_norm:
            operators.append(norm("embedding_norm", self.hidden, self.norm_bias))
        return Block(name="embedding", role="embedding", operators=tuple(operators))

    def head(self) -> Block:
        """Final norm and vocabulary projection."""
        width = self.embedding_width or self.hidden
        operators: list[Operator] = []
        if self.final_norm:
            operators.append(norm("final_norm", self.hidden, self.norm_bias))
        if width != self.hidden:
            operators.append(
                Linear(name="head_projection", in_features=self.hidden, out_features=width, split="replicated")
            )
        operators.append(
            Linear(
                name="lm_head",
                in_features=width,
                out_features=self.vocab,
                split="vocab",
                bias=self.head_bias,
                tied=self.tied,
            )
        )
        return Block(name="head", role="head", operators=tuple(operators))


def runs_of(blocks: Iterable[Block], stack: Stack = "decoder") -> tuple[Run, ...]:
    """Runs of consecutive equal blocks."""
    return tuple(Run(block=block, repeat=sum(1 for _ in group), stack=stack) for block, group in groupby(blocks))

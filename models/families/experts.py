"""Mixture fields: counts, shared experts, and which layers are sparse."""

from __future__ import annotations

from ..blocks import Mixture
from ..fields import MAX_EXPERTS, MAX_LAYERS, Fields

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def read_topk(fields: Fields, experts: int) -> int:
    """Experts that see each token, at most all of them."""
    return fields.count("num_experts_per_tok", high=experts)


def read_shared_mixture(fields: Fields, hidden: int) -> Mixture:
    """Routed experts and `n_shared_experts` fused into one wider expert."""
    experts = fields.count(*EXPERTS, high=MAX_EXPERTS)
    width = fields.count("moe_intermediate_size")
    shared = fields.count("n_shared_experts", low=0, high=MAX_EXPERTS)
    return Mixture(
        hidden=hidden, experts=experts, topk=read_topk(fields, experts), ffn=width, shared_ffn=shared * width
    )


def read_gated_mixture(fields: Fields, hidden: int, shared_ffn: int) -> Mixture:
    """Routed experts and, if it has a width, a shared expert behind a sigmoid gate (Qwen)."""
    experts = fields.count(*EXPERTS, high=MAX_EXPERTS)
    return Mixture(
        hidden=hidden,
        experts=experts,
        topk=read_topk(fields, experts),
        ffn=fields.count("moe_intermediate_size"),
        shared_ffn=shared_ffn,
        shared_gate=shared_ffn > 0,
    )


def read_sparse_layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    """Which layers are mixtures: each `decoder_sparse_step`-th, but none of `mlp_only_layers`."""
    step = fields.count("decoder_sparse_step", high=MAX_LAYERS, default=1)
    dense: tuple[int, ...] = ()
    if fields.has("mlp_only_layers"):
        dense = fields.counts("mlp_only_layers", low=0, high=layers - 1)
    else:
        fields.assume(f"mlp_only_layers not given: none, the default of {fields.architecture}")
    excluded = frozenset(dense)
    return tuple(index not in excluded and (index + 1) % step == 0 for index in range(layers))

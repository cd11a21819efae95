"""Which operators a recompute choice runs again in backward, and which saved inputs that frees."""

from __future__ import annotations

from collections.abc import Collection

from shardwright.models import Attention, Block, Elementwise, Experts, Linear, Norm, Operator


def feed_forward(op: Operator) -> bool:
    """Whether an operator belongs to a dense feed-forward part (builders prefix its names with `mlp_`)."""
    return isinstance(op, Linear | Elementwise) and op.name.startswith("mlp_") and not op.name.endswith("_residual")


def rerun(block: Block, modules: Collection[str]) -> tuple[set[int], set[int]]:
    """Positions of the operators that selective recompute runs again, and of those whose saved input it frees.

    The modules are Megatron-LM's: `core_attention` (Korthikanti et al. 2022, section 5), `norm` (the norms of the
    residual stream), `activation` (of dense and expert feed-forwards), `mla_up` (up-projections and rotation), `mlp`
    (a dense feed-forward) and `experts` (routing, dispatch and experts). A module frees what lies inside it and keeps
    its input.
    """
    again: set[int] = set()
    freed: set[int] = set()
    operators = block.operators
    latent = any(isinstance(op, Attention) and op.latent_features for op in operators)
    inside_mlp = False
    for i, op in enumerate(operators):
        if isinstance(op, Norm) and op.split == "sequence" and op.name.endswith(("attention_norm", "mlp_norm")):
            if "norm" in modules:
                again.add(i)
                freed.add(i + 1)
        elif isinstance(op, Elementwise) and op.name.endswith("_activation") and "activation" in modules:
            again.add(i)
            freed.add(i + 1)
        if isinstance(op, Attention):
            if "core_attention" in modules:
                again.add(i)
            if latent and "mla_up" in modules:
                freed.add(i)
        if latent and op.name in ("q_up", "kv_up", "rope") and "mla_up" in modules:
            again.add(i)
        if feed_forward(op) and "mlp" in modules:
            again.add(i)
            if inside_mlp:
                freed.add(i)
            inside_mlp = True
        if isinstance(op, Experts) and "experts" in modules:
            again.add(i)
            freed.add(i)
    return again, {i for i in freed if i < len(operators)}

"""What one device of a copy holds: weights, KV cache, workspace; and how many tokens of cache are left."""

from __future__ import annotations

from dataclasses import dataclass

from shardwright.models import ModelGraph

from ...workload.serving_layout import Layout, Quantization
from .coefficients import Engine
from .communication import Fabric
from .shapes import ReplicaShapes

NCCL_BYTES = 0.4e9  # communicator buffers of a group within a node (AIConfigurator system files)


@dataclass(frozen=True, slots=True)
class ReplicaMemory:
    """Bytes of one device by category, and the cache's capacity for the whole copy.

    `cache_tokens` is what fits beside the rest when sequences have a mean context of `context`: windowed layers keep
    their window only. `tokens_bytes` is the cache of one token of such a sequence on the fullest device.
    """

    weight_bytes: float
    workspace_bytes: float
    usable_bytes: float
    token_bytes: float
    sequence_bytes: float
    cache_tokens: float

    @property
    def cache_bytes(self) -> float:
        """Room for KV cache on one device; negative when weights and workspace alone do not fit."""
        return self.usable_bytes - self.weight_bytes - self.workspace_bytes


def replica_memory(
    model: ModelGraph,
    shapes: ReplicaShapes,
    fabric: Fabric,
    layout: Layout,
    use: tuple[Quantization, Engine, float],
) -> ReplicaMemory:
    """Memory of one device of a copy; `use` is quantization, engine and mean context in tokens.

    Workspace holds the activations of a full token budget (residual stream, its copy and the widest layer, in bf16),
    the gathered fp32 logits of as many sequences as may run, and the process's own share.
    """
    quantization, engine, context = use
    widest = max([float(each) for each in shapes.own.n] + [3.0 * shapes.hidden])
    tokens = engine.token_budget
    logits = engine.max_sequences * shapes.vocab * 4
    workspace = engine.context_bytes + (NCCL_BYTES if layout.devices > 1 else 0.0)
    workspace += tokens * (2 * shapes.hidden + widest) * 2 + logits
    usable = fabric.accelerator.memory_bytes * engine.memory_fraction
    token = sum(
        each.layers * each.cache_elements * (1.0 if each.kept is None else min(1.0, each.kept / max(context, 1.0)))
        for each in shapes.attention
    )
    token *= quantization.cache_bytes * shapes.stage_imbalance / layout.pp
    sequence = shapes.scan_bytes_per_sequence / layout.pp
    room = usable - shapes.weight_bytes - workspace
    per_token = token + sequence / max(context, 1.0)
    capacity = max(room, 0.0) / per_token * layout.attn_dp if per_token > 0 else float("inf")
    return ReplicaMemory(
        weight_bytes=shapes.weight_bytes,
        workspace_bytes=workspace,
        usable_bytes=usable,
        token_bytes=token,
        sequence_bytes=sequence,
        cache_tokens=capacity,
    )

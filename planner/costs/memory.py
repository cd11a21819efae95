"""Bytes one device holds: weights and their companions by sharding, and what a micro-batch keeps for backward.

Sources: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", sections 4 and 5
(activations; sbh(34 + 5 a s / h) per GPT layer follows from the operators here); Rajbhandari et al. 2020, "ZeRO",
section 5 (states by stage).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.models import Attention, Block, Elementwise, Experts, Linear, Operator

from ..workload.training import TrainingJob
from .compute import Device
from .keys import BlockKeys, Floats
from .recompute import rerun


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes per parameter of each companion of a weight, before sharding; a frozen weight has none."""

    weights: float
    gradients: float
    optimizer: float
    frozen: bool = False

    @property
    def touched(self) -> float:
        """Bytes the optimizer step moves per parameter: states read and written, gradient read, weight written."""
        return 0.0 if self.frozen else 2 * self.optimizer + self.gradients + self.weights


def state_bytes(job: TrainingJob, device: Device) -> StateBytes:
    """Mixed precision keeps a 16-bit weight beside an fp32 master and two moments (Micikevicius et al. 2018); fp8
    training keeps 8-bit copies of the 16-bit weight as well. Frozen weights have no gradients and no states."""
    moments = {"adam": job.moment_bytes, "adam8bit": 2, "sgd": 0, "sgd-momentum": 4, "muon": 4}[job.optimizer]
    if job.precision == "fp32":
        return StateBytes(4.0, 4.0, float(moments))
    copies = device.coefficients.framework.weight_copy_bytes_fp8 if device.low_precision else 0.0
    if device.frozen:
        return StateBytes(2.0 + copies, 0.0, 0.0, frozen=True)
    return StateBytes(2.0 + copies, float(job.gradient_bytes), float(job.master_weight_bytes + moments))


@dataclass(frozen=True, slots=True)
class BlockParameters:
    """Parameters of one block on one rank: divided by tp, and experts divided by ep × etp."""

    dense: Floats
    expert: Floats


def block_parameters(block: Block, keys: BlockKeys) -> BlockParameters:
    """Parameters per rank, those of a tied head left to the embedding."""
    dense = keys.by_tp(
        lambda tp, sp: sum(op.parameters_per_rank(tp) for op in block.operators if not isinstance(op, Experts))
    )
    expert: Floats = np.zeros(len(keys))
    for op in block.operators:
        if isinstance(op, Experts):
            local = np.ceil(op.experts / keys.ep)
            per_expert = _by_etp(op, keys)
            expert = expert + local * per_expert
    return BlockParameters(dense, expert)


def widest_product(block: Block, keys: BlockKeys) -> Floats:
    """Parameters per rank of the block's largest product outside experts and vocabulary."""
    products = [op for op in block.operators if isinstance(op, Linear) and op.split != "vocab"]
    return keys.by_tp(lambda tp, sp: max((op.parameters_per_rank(tp) for op in products), default=0))


def _by_etp(op: Experts, keys: BlockKeys) -> Floats:
    degrees, inverse = np.unique(keys.etp, return_inverse=True)
    counts = [sum(each.parameters_per_rank(int(etp)) for each in op.body) for etp in degrees]
    return np.array(counts, dtype=np.float64)[inverse]


def saved_bytes(
    block: Block, keys: BlockKeys, device: Device, modules: Collection[str], kept: Sequence[Floats] | None = None
) -> Floats:
    """Bytes one micro-batch keeps in one block with those modules recomputed (none of them: an empty collection);
    `kept`, where known already, are what its operators keep with nothing recomputed."""
    _, freed = rerun(block, modules)
    activation, scores = "activation" in modules, "core_attention" in modules
    total: Floats = np.zeros(len(keys))
    for i, op in enumerate(block.operators):
        if i in freed:
            continue
        changed = (isinstance(op, Experts) and activation) or (isinstance(op, Attention) and scores)
        total = total + (
            operator_saved_bytes(op, keys, device, activation, scores) if changed or kept is None else kept[i]
        )
        if isinstance(op, Attention) and scores:
            total = total + _unsplit_bytes(op, block, keys, device)
    return total


def _unsplit_bytes(op: Attention, block: Block, keys: BlockKeys, device: Device) -> Floats:
    """Bytes that recomputing a fused attention keeps beside its inputs.

    V is a part of the projection's output (`torch.split` in megatron-core's attention.py), all of which stays as long
    as it does; rotation has made new tensors of Q and K. Without recompute a fused kernel keeps a copy of V.
    """
    rotated = any(each.name == "rope" for each in block.operators)
    if device.coefficients.framework.attention_kernel == "unfused" or op.latent_features or op.cross or not rotated:
        return np.zeros(len(keys))
    features = op.qk_head_dim * keys.by_tp(lambda tp, sp: -(-op.heads // tp) + -(-op.kv_heads // tp))
    return np.asarray(keys.tokens * features * device.element_bytes)


def operator_saved_bytes(
    op: Operator, keys: BlockKeys, device: Device, activation_again: bool = False, scores_again: bool = False
) -> Floats:
    """Bytes one micro-batch keeps for the backward of one operator."""
    framework = device.coefficients.framework
    size = device.element_bytes
    if op.source_tokens and not isinstance(op, Attention):
        keys = keys.of_source(op.source_tokens)
    if isinstance(op, Experts):
        return _expert_saved(op, keys, device, activation_again)
    if isinstance(op, Linear) and op.split == "vocab":
        logits = keys.by_tp(lambda tp, sp: op.out_features_per_rank(tp)) * framework.logits_bytes
        inputs = keys.by_tp(op.saved_elements_per_rank) * size
        return keys.tokens * (logits + inputs)
    if isinstance(op, Linear) and device.low_precision and op.split != "replicated":
        size = framework.saved_linear_bytes_fp8
    total: Floats = keys.tokens * keys.by_tp(op.saved_elements_per_rank) * size
    if isinstance(op, Elementwise) and op.name.endswith("residual") and framework.dropout:
        total = total + keys.own_tokens * op.out_features
    if isinstance(op, Attention) and op.source_tokens:
        total = total + keys.of_source(op.source_tokens).tokens * keys.by_tp(
            lambda tp, sp: op.context_elements_per_rank(tp) * size
        )
    if isinstance(op, Attention) and framework.attention_kernel == "unfused" and not scores_again:
        per_score = 2 * device.element_bytes + 1 if framework.dropout else device.element_bytes
        heads = keys.by_tp(lambda tp, sp: -(-op.heads // tp))
        total = total + keys.tokens * heads * (op.source_tokens or keys.sequence) * per_score
    return total


def _expert_saved(op: Experts, keys: BlockKeys, device: Device, activation_again: bool) -> Floats:
    """Every rank's tokens are sent to `topk` experts each; over an etp group they are gathered."""
    copies = keys.own_tokens * keys.etp * op.topk * device.coefficients.framework.expert_imbalance
    total: Floats = np.zeros(len(keys))
    after_activation = False
    for each in op.body:
        is_linear = isinstance(each, Linear)
        size = device.element_bytes
        if is_linear and device.low_precision:
            size = device.coefficients.framework.saved_linear_bytes_fp8
        divided = each.split in ("row", "heads") or isinstance(each, Elementwise)
        elements = np.ceil(each.saved_elements / keys.etp) if divided else np.float64(each.saved_elements)
        if not (is_linear and after_activation and activation_again):
            total = total + copies * elements * size
        after_activation = isinstance(each, Elementwise)
    return total


def input_bytes(hidden: int, keys: BlockKeys, device: Device) -> Floats:
    """Bytes full recompute keeps per layer: its input, divided over tp under sp."""
    return keys.own_tokens * hidden * device.element_bytes


def dispatch_features(block: Block) -> int:
    """Elements per token that expert dispatch holds in its send and receive buffers."""
    total = 0
    for op in block.operators:
        if isinstance(op, Experts):
            total += 2 * op.topk * next(each.in_features for each in op.body if isinstance(each, Linear))
    return total

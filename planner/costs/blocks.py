"""Costs of every distinct block for every distinct key: what search and estimate gather from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.models import Attention, Block, Elementwise, Embedding, Experts, ModelGraph, Operator

from ..strategy import RECOMPUTE_MODULES
from ..workload.strategy_table import Ints
from .communication import BlockTransfers, Cover, block_transfers, dispatch_seconds
from .compute import Device, OperatorTimes, operator_times
from .keys import BlockKeys, Floats
from .memory import (
    block_parameters,
    dispatch_features,
    input_bytes,
    operator_saved_bytes,
    saved_bytes,
    widest_product,
)
from .network import Network
from .recompute import rerun


@dataclass(frozen=True, slots=True)
class BlockCosts:
    """Arrays of shape [keys, blocks]: seconds and bytes per micro-batch and rank, parameters per rank.

    `forward_s` and `backward_s` include the exposed transfers; `weight_s` is the part of backward that computes weight
    gradients, which zero-bubble schedules move. `input_bytes` is what a fully recomputed block keeps,
    `widest_product` the parameters of its largest dense product. `operators` are the parts of every block that
    selective recompute adds up otherwise.
    """

    compute_forward_s: Floats
    compute_backward_s: Floats
    weight_s: Floats
    transfers: tuple[BlockTransfers, ...]
    forward_s: Floats
    backward_s: Floats
    flops: Floats
    saved_bytes: Floats
    input_bytes: Floats
    dense_parameters: Floats
    tied_parameters: Floats
    expert_parameters: Floats
    widest_product: Floats
    dispatch_bytes: Floats
    operators: tuple[OperatorCosts, ...]


@dataclass(frozen=True, slots=True)
class OperatorCosts:
    """Of every operator of one block, arrays over `keys`: its times and what it keeps for backward; and the seconds of
    one way of expert dispatch. `at` is the position of every key of the table in them, None where they are the same."""

    keys: BlockKeys
    at: Ints | None
    times: tuple[OperatorTimes, ...]
    saved_bytes: tuple[Floats, ...]
    dispatch_s: Floats


@dataclass(frozen=True, slots=True)
class SelectiveCosts:
    """Arrays of shape [keys, blocks]: seconds run again and bytes kept when some modules are recomputed."""

    again_s: Floats
    saved_bytes: Floats


def block_costs(
    model: ModelGraph, blocks: tuple[Block, ...], keys: BlockKeys, device: Device, network: Network
) -> BlockCosts:
    """Costs of every block for every key, nothing recomputed."""
    columns: dict[str, list[Floats]] = {}
    transfers: list[BlockTransfers] = []
    parts: list[OperatorCosts] = []
    every = keys
    for block in blocks:
        part = _operator_costs(block, every, device, network)
        parts.append(part)
        keys, times = part.keys, part.times
        cover = _cover(block, times, keys, device)
        moved = block_transfers(block, keys, network, device.coefficients.framework, cover, part.dispatch_s)
        transfers.append(BlockTransfers(*(_spread(getattr(moved, name), part.at) for name in BlockTransfers.__slots__)))
        forward = _issued(block, keys, _total(times, "forward", keys) + moved.forward, device)
        to_weight = np.zeros(len(keys)) if device.frozen else _total(times, "backward_weight", keys)
        backward = _total(times, "backward_input", keys) + to_weight + moved.backward
        backward = _issued(block, keys, backward, device, 1 if device.frozen else 2)
        parameters = block_parameters(block, keys)
        values = {
            "compute_forward_s": forward - moved.forward,
            "compute_backward_s": backward - moved.backward,
            "weight_s": to_weight,
            "forward_s": forward,
            "backward_s": backward,
            "flops": _total(times, "flops", keys),
            "saved_bytes": saved_bytes(block, keys, device, (), part.saved_bytes),
            "input_bytes": input_bytes(model.stream_size, keys, device),
            "dense_parameters": parameters.dense,
            "tied_parameters": tied_table(model, block) / keys.tp,
            "expert_parameters": parameters.expert,
            "widest_product": widest_product(block, keys),
            "dispatch_bytes": keys.own_tokens * dispatch_features(block) * device.element_bytes,
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(_spread(value, part.at))
    stacked = {name: np.stack(column, axis=1) for name, column in columns.items()}
    return BlockCosts(transfers=tuple(transfers), operators=tuple(parts), **stacked)


def _operator_costs(block: Block, keys: BlockKeys, device: Device, network: Network) -> OperatorCosts:
    """Blocks without experts are costed for keys that differ in more than those, and so are operators beside them."""
    dense, at = (keys, None) if keys.dense is None else (keys.dense, keys.dense_of)
    mixture = any(isinstance(op, Experts) for op in block.operators)
    own, where = (keys, None) if mixture else (dense, at)
    times, kept = [], []
    for op in block.operators:
        if isinstance(op, Experts) or not mixture:
            times.append(operator_times(op, own, device))
            kept.append(operator_saved_bytes(op, own, device))
        else:
            made = operator_times(op, dense, device)
            times.append(OperatorTimes(*(_spread(getattr(made, name), at) for name in OperatorTimes.__slots__)))
            kept.append(_spread(operator_saved_bytes(op, dense, device), at))
    dispatch_s = dispatch_seconds(block, own, network, device.coefficients.framework)
    return OperatorCosts(own, where, tuple(times), tuple(kept), dispatch_s)


def _spread(values: Floats, at: Ints | None) -> Floats:
    return values if at is None else values[at]


def selective_costs(
    blocks: tuple[Block, ...], device: Device, parts: tuple[OperatorCosts, ...], bits: int
) -> SelectiveCosts:
    """Costs of recomputing the modules whose bits are set; transfers inside them are paid again."""
    modules = [name for i, name in enumerate(RECOMPUTE_MODULES) if bits >> i & 1]
    again_s: list[Floats] = []
    saved: list[Floats] = []
    for block, part in zip(blocks, parts, strict=True):
        keys = part.keys
        again, _ = rerun(block, modules)
        total = _total([times for i, times in enumerate(part.times) if i in again], "forward", keys)
        if any(isinstance(op, Experts) and i in again for i, op in enumerate(block.operators)):
            total = total + part.dispatch_s
        if "activation" in modules:
            total = total + _expert_activation_s(block, keys, device)
        again_s.append(_spread(total, part.at))
        saved.append(_spread(saved_bytes(block, keys, device, modules, part.saved_bytes), part.at))
    return SelectiveCosts(np.stack(again_s, axis=1), np.stack(saved, axis=1))


def tied_table(model: ModelGraph, block: Block) -> int:
    """Weights of the vocabulary table that a tied head holds a copy of when it stands on its own stage."""
    if not (model.tied_embeddings and block.role == "head"):
        return 0
    tables = [op for other in model.blocks for op in other.operators if isinstance(op, Embedding)]
    return max((op.parameters for op in tables if op.split == "vocab"), default=0)


def _expert_activation_s(block: Block, keys: BlockKeys, device: Device) -> Floats:
    total: Floats = np.zeros(len(keys))
    for op in block.operators:
        if isinstance(op, Experts):
            width = sum(each.in_features + each.out_features for each in op.body if isinstance(each, Elementwise))
            copies = keys.own_tokens * op.topk * width * device.element_bytes
            total = total + device.traffic_s(copies) + device.kernel_s
    return total


def _cover(block: Block, times: Sequence[OperatorTimes], keys: BlockKeys, device: Device) -> Cover:
    """Compute under which transfers may hide."""

    def spent(chosen: Callable[[Operator], bool]) -> tuple[Floats, Floats]:
        part = [each for op, each in zip(block.operators, times, strict=True) if chosen(op)]
        backward = _total(part, "backward_input", keys) + _total(part, "backward_weight", keys)
        return _total(part, "forward", keys), backward

    return Cover(
        weight_s=np.zeros(len(keys)) if device.frozen else _total(times, "backward_weight", keys),
        attention_s=spent(lambda op: isinstance(op, Attention)),
        shared_s=spent(lambda op: op.name.startswith("shared_")),
        block_s=spent(lambda op: True),
    )


def _total(times: Sequence[OperatorTimes], name: str, keys: BlockKeys) -> Floats:
    total: Floats = np.zeros(len(keys))
    for each in times:
        total = total + getattr(each, name)
    return total


def _issued(block: Block, keys: BlockKeys, seconds: Floats, device: Device, passes: int = 1) -> Floats:
    """Compute and transfers of one block: a device never runs ahead of the host that issues its kernels."""
    framework = device.coefficients.framework
    experts = sum(isinstance(op, Experts) for op in block.operators)
    host = len(block.operators) * framework.host_operator_s + experts * framework.host_experts_s
    waited = 1 + framework.host_wait * keys.tp * (keys.tp - 1) / 2
    return np.maximum(seconds, passes * host * device.coefficients.kernels.host_slowdown * waited)

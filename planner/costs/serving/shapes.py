"""One rank's share of a model under a layout: matrix products, attention, experts and transfers, as arrays.

Layers that are equal are counted, not listed. Products that an engine runs as one kernel (Q with K and V, gate with
up) are one entry already in the model graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from shardwright.models import ModelGraph
from shardwright.models.graph import Block
from shardwright.models.operators import Attention, Elementwise, Embedding, Experts, Linear, Norm, Scan

from ...errors import InputError
from ...workload.serving_layout import Layout, Quantization

ATTENTION_PROJECTIONS = ("qkv", "q", "q_down", "q_up", "kv_down", "kv_up", "attention_output")


@dataclass(frozen=True, slots=True)
class Products:
    """Dense matrix products of one rank: `count` of [tokens, k] × [k, n] each, weights of `weight_bytes` an element.

    `narrow` marks the products that run in the quantized format.
    """

    k: NDArray[np.float64]
    n: NDArray[np.float64]
    count: NDArray[np.float64]
    weight_bytes: NDArray[np.float64]
    narrow: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class AttentionClass:
    """Layers with the same attention, on one rank.

    `pair_flops` per query and attended token in prefill, `decode_flops` while decoding (absorbed for MLA);
    `cache_elements` per cached token; `window` tokens are attended to and `kept` tokens stay in the cache, None for the
    whole context: sparse attention selects few of all that it keeps.
    """

    layers: float
    pair_flops: float
    decode_flops: float
    cache_elements: float
    window: int | None
    kept: int | None
    latent: bool
    grouped: bool


@dataclass(frozen=True, slots=True)
class ExpertClass:
    """Layers with the same routed experts.

    `held` experts of `experts` on a rank, `weights` elements each (its moe_tp share), `flops` per routed token.
    """

    layers: float
    experts: int
    topk: int
    held: float
    weights: float
    flops: float
    hidden: int
    inner: float


@dataclass(frozen=True, slots=True)
class ReplicaShapes:
    """Everything one rank of a copy does per step, all pipeline stages together, and what it must hold."""

    own: Products  # on the tokens of the rank's own attention group
    head: Products  # on one token per sequence
    attention: tuple[AttentionClass, ...]
    experts: tuple[ExpertClass, ...]
    layers: float
    kernels: float  # small kernels: norms, activations, rotations
    elementwise_bytes: float  # per token, read and written by them
    scan_flops: float
    scan_bytes_per_sequence: float
    reduces: float  # all-reduces over tp, of one hidden state per token
    stage_reduces: float  # all-reduces over the whole stage
    exchanges: float  # dispatch and combine of routed tokens between attention groups
    gathers: float  # all-gather and reduce-scatter of tokens between attention groups
    layer_bytes: float  # weights of all layers
    edge_bytes: tuple[float, ...]  # of the embedding and of the head
    weight_bytes: float  # of the fullest stage
    stage_imbalance: float
    hidden: int
    vocab: int


@dataclass(slots=True)
class _Tally:
    own: list[tuple[float, float, float, float, bool]] = field(default_factory=list)
    head: list[tuple[float, float, float, float, bool]] = field(default_factory=list)
    attention: dict[AttentionClass, float] = field(default_factory=dict)
    experts: dict[ExpertClass, float] = field(default_factory=dict)
    kernels: float = 0.0
    elementwise_bytes: float = 0.0
    scan_flops: float = 0.0
    scan_bytes: float = 0.0
    reduces: float = 0.0
    stage_reduces: float = 0.0
    exchanges: float = 0.0
    gathers: float = 0.0
    weight_bytes: float = 0.0
    edge_bytes: list[float] = field(default_factory=list)


def replica_shapes(model: ModelGraph, layout: Layout, quantization: Quantization) -> ReplicaShapes:
    """The share of one rank; what does not divide is rounded up (see `check_layout` for what engines accept)."""
    _check_generates(model)
    tally = _Tally()
    for run in model.runs:
        if run.block.role == "layer":
            _layer(tally, run.block, run.repeat, layout, quantization)
        elif run.block.role in ("embedding", "head"):
            _edge(tally, run.block, layout)
    layers = model.num_layers
    whole = ReplicaShapes(
        own=_products(tally.own),
        head=_products(tally.head),
        attention=tuple(replace(key, layers=layers) for key, layers in tally.attention.items()),
        experts=tuple(replace(key, layers=layers) for key, layers in tally.experts.items()),
        layers=layers,
        kernels=tally.kernels,
        elementwise_bytes=tally.elementwise_bytes,
        scan_flops=tally.scan_flops,
        scan_bytes_per_sequence=tally.scan_bytes,
        reduces=tally.reduces,
        stage_reduces=tally.stage_reduces,
        exchanges=tally.exchanges,
        gathers=tally.gathers,
        layer_bytes=tally.weight_bytes,
        edge_bytes=tuple(tally.edge_bytes),
        weight_bytes=0.0,
        stage_imbalance=1.0,
        hidden=model.hidden_size,
        vocab=model.vocab_size,
    )
    return in_stages(whole, layout.pp)


def _check_generates(model: ModelGraph) -> None:
    stacks = {run.stack for run in model.runs}
    if not model.vocab_size:
        raise InputError(f"model {model.name}: it makes videos, not tokens, and only its training is planned here")
    if stacks == {"encoder"}:
        raise InputError(f"model {model.name}: encoder-only models generate no tokens; serve a decoder-only model")
    if "encoder" in stacks:
        raise InputError(f"model {model.name}: encoder-decoder models are not served by this planner, decoders are")


def in_stages(shapes: ReplicaShapes, pp: int) -> ReplicaShapes:
    """The same ranks with their layers divided over other pipeline stages."""
    edges = sum(shapes.edge_bytes) if pp == 1 else max(shapes.edge_bytes, default=0.0)
    imbalance = -(-int(shapes.layers) // pp) * pp / shapes.layers
    weights = shapes.layer_bytes / pp * imbalance + edges
    return replace(shapes, weight_bytes=weights, stage_imbalance=imbalance)


def check_layout(model: ModelGraph, layout: Layout) -> None:
    """Raise InputError with the degree that the model cannot take."""
    if layout.pp > model.num_layers:
        raise InputError(f"layout.pp must be at most the {model.num_layers} layers of {model.name} but got {layout.pp}")
    for block in model.blocks:
        for op in block.operators:
            if isinstance(op, Attention) and op.heads % layout.tp:
                raise InputError(f"layout.tp must divide the {op.heads} heads of {model.name} but got {layout.tp}")
            if isinstance(op, Experts):
                _check_experts(model, op, layout)
    if layout.ep * layout.moe_tp > 1 and not has_experts(model):
        raise InputError(f"layout.ep and layout.moe_tp must be 1: {model.name} has no experts")


def _check_experts(model: ModelGraph, op: Experts, layout: Layout) -> None:
    if op.experts % layout.ep:
        raise InputError(f"layout.ep must divide the {op.experts} experts of {model.name} but got {layout.ep}")
    inner = max(each.in_features for each in op.body if isinstance(each, Linear) and each.split == "row")
    if inner % layout.moe_tp:
        raise InputError(f"layout.moe_tp must divide the expert width {inner} of {model.name} but got {layout.moe_tp}")


def has_experts(model: ModelGraph) -> bool:
    """Whether any layer routes its tokens."""
    return any(isinstance(op, Experts) for block in model.blocks for op in block.operators)


def _layer(tally: _Tally, block: Block, repeat: int, layout: Layout, quantization: Quantization) -> None:
    routed = any(isinstance(op, Experts) for op in block.operators)
    for op in block.operators:
        if isinstance(op, Linear):
            _linear(tally, op, repeat, layout, quantization)
        elif isinstance(op, Attention):
            _attention(tally, op, repeat, layout, quantization)
        elif isinstance(op, Experts):
            _experts(tally, op, repeat, layout, quantization)
        elif isinstance(op, Scan):
            tally.scan_flops += repeat * op.scan_flops_per_token / layout.tp
            tally.scan_bytes += repeat * op.state_elements_per_rank(layout.tp) * 2 * 2
            tally.weight_bytes += repeat * op.parameters_per_rank(layout.tp) * 2
            tally.kernels += 2 * repeat
        elif isinstance(op, Norm | Elementwise):
            _small(tally, op, repeat, layout)
    if layout.tp > 1:
        tally.reduces += repeat * (1 if routed and layout.stage_devices > 1 else 2)
    if routed:
        _expert_transfers(tally, repeat, layout)


def _expert_transfers(tally: _Tally, repeat: int, layout: Layout) -> None:
    """How routed tokens reach their experts and return.

    With one attention group every rank has every token: the experts' outputs are summed by one all-reduce. With more,
    tokens are dispatched to the ranks of their experts and combined from there (ep), or gathered and scattered (tp).
    """
    if layout.stage_devices == 1:
        return
    if layout.attn_dp == 1:
        tally.stage_reduces += repeat
    elif layout.ep > 1:
        tally.exchanges += repeat
    else:
        tally.gathers += repeat


def _linear(tally: _Tally, op: Linear, repeat: int, layout: Layout, quantization: Quantization) -> None:
    """Dense layers and shared experts are whole in every attention group (vLLM, TensorRT-LLM)."""
    k, n = op.in_features_per_rank(layout.tp), op.out_features_per_rank(layout.tp)
    narrow = op.split in ("column", "row") or (op.split == "replicated" and min(k, n) >= 512)
    narrow = narrow and (quantization.attention or op.name not in ATTENTION_PROJECTIONS)
    weight = quantization.weight_bytes if narrow else 2.0
    tally.own.append((k, n, repeat, weight, narrow))
    tally.weight_bytes += repeat * (k * n * weight + (2 * n if op.bias else 0))


def _attention(tally: _Tally, op: Attention, repeat: int, layout: Layout, quantization: Quantization) -> None:
    """Of compressed attention the window and the compressed entries count apart, a stride of tokens being one entry."""
    share = -(-op.heads // layout.tp) / op.heads / layout.cp
    reaches: list[tuple[int, int | None, int | None]] = [(1, op.selected or op.window, op.window)]
    if op.stride:
        reaches = [(1, op.window, op.window), (op.stride, op.selected and op.selected * op.stride, None)]
    for stride, window, kept in reaches:
        key = AttentionClass(
            layers=0.0,
            pair_flops=op.flops_per_token_and_context * share / stride,
            decode_flops=op.absorbed_flops_per_token_and_context * share / stride,
            cache_elements=op.cached_elements_per_rank(layout.tp) / layout.cp / stride,
            window=window,
            kept=kept,
            latent=op.latent_features > 0,
            grouped=op.heads > op.kv_heads,
        )
        tally.attention[key] = tally.attention.get(key, 0.0) + repeat
    tally.weight_bytes += repeat * op.parameters_per_rank(layout.tp) * 2


def _experts(tally: _Tally, op: Experts, repeat: int, layout: Layout, quantization: Quantization) -> None:
    body = [each for each in op.body if isinstance(each, Linear)]
    weights = sum(each.in_features_per_rank(layout.moe_tp) * each.out_features_per_rank(layout.moe_tp) for each in body)
    held = op.experts / layout.ep
    inner = max(each.in_features_per_rank(layout.moe_tp) for each in body if each.split == "row")
    key = ExpertClass(
        layers=0.0,
        experts=op.experts,
        topk=op.topk,
        held=held,
        weights=weights,
        flops=2.0 * weights,
        hidden=body[0].in_features,
        inner=inner,
    )
    tally.experts[key] = tally.experts.get(key, 0.0) + repeat
    biases = sum(each.out_features for each in body if each.bias)
    tally.weight_bytes += repeat * held * (weights * quantization.expert_bytes + 2 * biases)


def _small(tally: _Tally, op: Norm | Elementwise, repeat: int, layout: Layout) -> None:
    ways = layout.tp if op.split in ("heads", "column", "row") else 1
    moved = 2 * op.features if isinstance(op, Norm) else op.in_features + op.out_features
    elements = moved / ways
    fused = "residual" in op.name
    tally.kernels += 0 if fused else repeat
    tally.elementwise_bytes += repeat * elements * 2
    tally.weight_bytes += repeat * op.parameters_per_rank(layout.tp) * 2


def _edge(tally: _Tally, block: Block, layout: Layout) -> None:
    """Embedding or head; a tied projection has no weights of its own."""
    held = 0.0
    for op in block.operators:
        if isinstance(op, Linear):
            k, n = op.in_features_per_rank(layout.tp), op.out_features_per_rank(layout.tp)
            entries = tally.head if op.split == "vocab" else tally.own
            entries.append((k, n, 1, 2.0, False))
            held += 0 if op.tied else k * n * 2
        elif isinstance(op, Embedding | Norm):
            held += op.parameters_per_rank(layout.tp) * 2
    tally.edge_bytes.append(held)


def _products(entries: list[tuple[float, float, float, float, bool]]) -> Products:
    merged: dict[tuple[float, float, float, bool], float] = {}
    for k, n, count, weight, narrow in entries:
        key = (k, n, weight, narrow)
        merged[key] = merged.get(key, 0.0) + count
    keys = list(merged)
    return Products(
        k=np.array([key[0] for key in keys], dtype=float),
        n=np.array([key[1] for key in keys], dtype=float),
        count=np.array([merged[key] for key in keys], dtype=float),
        weight_bytes=np.array([key[2] for key in keys], dtype=float),
        narrow=np.array([key[3] for key in keys], dtype=bool),
    )

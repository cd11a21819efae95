"""Time of one engine step: any mix of prompt chunks and decoding sequences, at any context lengths.

A step of T tokens costs the sum over kernels of their rooflines (Williams et al. 2009, smoothed: see Kernels), the
transfers of the layout, and the engine's own time. Decode attention grows with the cached tokens it reads, prefill
attention with the query-key pairs; both are linear, so that a simulator can leap over steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.models import ModelGraph

from ...workload.serving_layout import Layout, Quantization, Speculation
from .coefficients import Engine, Kernels
from .communication import Fabric
from .shapes import ExpertClass, Products, ReplicaShapes, replica_shapes

Array = NDArray[np.float64]

TOKEN_GRID: Array = np.unique(np.concatenate([np.arange(0, 17), np.rint(np.geomspace(17, 262144, 112))])).astype(float)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a copy runs on and with: devices and links, kernels, engine."""

    fabric: Fabric
    kernels: Kernels
    engine: Engine

    def peak(self, compute: str) -> tuple[float, str]:
        """FLOP/s for products in a format, and the format the device really computes in."""
        peaks = self.fabric.accelerator.peak_flops
        chain = {
            "fp4": ("fp4", "fp8", "bf16", "fp16"),
            "fp8": ("fp8", "bf16", "fp16"),
            "int8": ("int8", "bf16", "fp16"),
        }
        for format_ in chain.get(compute, ("bf16", "fp16", "fp32")):
            if format_ in peaks:
                return peaks[format_], "bf16" if format_ in ("fp16", "fp32") else format_
        return max(peaks.values()), "bf16"


@dataclass(frozen=True, slots=True)
class ContextCost:
    """Attention of the layers that share a window: seconds per cached token read, and per query-key pair."""

    window: int | None
    read_s: float
    pair_s: float


@dataclass(frozen=True, slots=True)
class StepCost:
    """Time of a step of one copy of the model, as tables over token counts and rates over contexts.

    `own_s` and `stage_s` are seconds by tokens of one attention group and of the whole stage (grid TOKEN_GRID);
    `head_s` by sequences that end the step with a token. All layers of all pipeline stages are counted.
    """

    own_s: Array
    stage_s: Array
    head_s: Array
    contexts: tuple[ContextCost, ...]
    step_s: float
    sequence_s: float
    prefill_s: float
    token_s: float
    request_s: float
    fill_s: float
    groups: int
    pp: int
    cp: int
    tokens_per_step: float
    tokens_checked: int
    draft: float

    def decode_seconds(self, sequences: Array | float, context: Array | float) -> Array:
        """A step in which every sequence decodes at a mean context."""
        return self.seconds(sequences, context, 0.0, 0.0)

    def seconds(
        self, sequences: Array | float, context: Array | float, prompt_tokens: Array | float, start: Array | float
    ) -> Array:
        """A step of `sequences` decoding at a mean `context` with one prompt chunk that follows `start` cached tokens."""
        sequences, context, prompt_tokens, start = (
            np.asarray(each, dtype=float) for each in (sequences, context, prompt_tokens, start)
        )
        base = self.linear_seconds(sequences, prompt_tokens, np.minimum(1.0, prompt_tokens))
        group = np.ceil(sequences / self.groups)
        pairs = prompt_tokens * (start + prompt_tokens / 2)
        return base + self.read_seconds(group, context) + self.pair_seconds(prompt_tokens, pairs)

    def linear_seconds(self, sequences: Array, prompt_tokens: Array, prompts: Array) -> Array:
        """All of a step but its attention over contexts; `prompts` chunks of `prompt_tokens` together.

        A pipeline of pp stages runs pp groups of sequences one after another: a turn of all of them takes pp stages.
        """
        decode = np.ceil(sequences / self.groups) * self.tokens_checked
        busiest = np.ceil(prompts / self.groups)
        share = np.where(prompts > 0, prompt_tokens / np.maximum(prompts, 1) * busiest, 0.0) / self.cp
        lone, mixed = decode / self.pp, np.clip(prompts, 1, self.pp)
        total = sequences * self.tokens_checked
        plain = self.tables(lone, total / self.pp, sequences)
        if not np.any(prompt_tokens > 0):
            return plain * (1 + self.draft) + self._host(sequences, prompt_tokens)
        loaded = self.tables(lone + share / mixed, (total / self.pp) + prompt_tokens / mixed, sequences + prompts)
        turn = ((self.pp - mixed) * plain + mixed * loaded) / self.pp
        return np.where(prompt_tokens > 0, turn, plain) * (1 + self.draft) + self._host(sequences, prompt_tokens)

    def read_seconds(self, sequences: Array | float, context: Array | float) -> Array:
        """Decode attention of `sequences` of one group at a mean context."""
        return np.asarray(
            sum(
                each.read_s * np.asarray(sequences) * np.minimum(context, each.window or 1e30) for each in self.contexts
            ),
            dtype=float,
        ) * (1 + self.draft)

    def pair_seconds(self, tokens: Array, pairs: Array) -> Array:
        """Prefill attention of a chunk with that many query-key pairs; a window limits the pairs of each query."""
        return np.asarray(
            sum(each.pair_s * np.minimum(pairs, tokens * (each.window or 1e30)) for each in self.contexts),
            dtype=float,
        )

    def _host(self, sequences: Array, prompt_tokens: Array) -> Array:
        loaded = prompt_tokens > 0
        return (
            self.step_s
            + self.sequence_s * sequences
            + self.token_s * prompt_tokens
            + np.where(loaded, self.prefill_s, 0)
        )

    def tables(self, own: Array, stage: Array, sequences: Array) -> Array:
        return (
            _look_up(own, self.own_s) + _look_up(stage, self.stage_s) + _look_up(sequences / self.groups, self.head_s)
        )


def step_cost(
    model: ModelGraph,
    machine: Machine,
    layout: Layout,
    quantization: Quantization,
    speculation: Speculation | None = None,
) -> StepCost:
    """The cost of a step of one copy of a model. Raises InputError when the layout does not fit the model."""
    shapes = replica_shapes(model, layout, quantization)
    return cost_of_shapes(shapes, machine, layout, quantization, speculation)


def cost_of_shapes(
    shapes: ReplicaShapes,
    machine: Machine,
    layout: Layout,
    quantization: Quantization,
    speculation: Speculation | None = None,
) -> StepCost:
    """The same from shapes already derived."""
    engine, kernels = machine.engine, machine.kernels
    own = _product_seconds(shapes.own, machine, quantization) * engine.gemm + _small_seconds(shapes, machine)
    own += _attention_start_seconds(shapes, machine)
    own += shapes.reduces * _reduce(machine, shapes, layout.tp)
    stage = _product_seconds(shapes.shared, machine, quantization) * engine.gemm
    stage += _expert_seconds(shapes, machine, layout, quantization) * engine.expert
    stage += _stage_transfers(shapes, machine, layout)
    if layout.cp > 1:
        own += shapes.layers * machine.fabric.seconds("all_gather", TOKEN_GRID * shapes.hidden * 2, layout.cp)
    imbalance = shapes.stage_imbalance
    sends = (layout.pp - 1) * _send(machine, shapes, layout) if layout.pp > 1 else np.zeros_like(TOKEN_GRID)
    scan = shapes.scan_bytes_per_sequence / (machine.fabric.accelerator.memory_bytes_per_s * kernels.memory)
    drafted = speculation.draft_tokens if speculation else 0
    return StepCost(
        own_s=(own + shapes.layers * engine.layer_s) * imbalance + sends,
        stage_s=stage * imbalance,
        head_s=_product_seconds(shapes.head, machine, quantization) + TOKEN_GRID * scan,
        contexts=_context_costs(shapes, machine, quantization, imbalance),
        step_s=engine.step_s,
        sequence_s=engine.sequence_s,
        prefill_s=engine.prefill_s,
        token_s=engine.token_s,
        request_s=engine.request_s,
        fill_s=(layout.pp - 1) / layout.pp,
        groups=layout.attn_dp,
        pp=layout.pp,
        cp=layout.cp,
        tokens_per_step=speculation.tokens_per_step if speculation else 1.0,
        tokens_checked=1 + drafted,
        draft=drafted * speculation.draft_cost if speculation else 0.0,
    )


def _look_up(tokens: Array, table: Array) -> Array:
    """Linear between the grid's points, and beyond its last by the last slope."""
    found = np.interp(tokens, TOKEN_GRID, table)
    over = np.maximum(tokens - TOKEN_GRID[-1], 0.0)
    slope = (table[-1] - table[-2]) / (TOKEN_GRID[-1] - TOKEN_GRID[-2])
    return np.asarray(found + over * slope, dtype=float)


def _product_seconds(products: Products, machine: Machine, quantization: Quantization) -> Array:
    if not products.k.size:
        return np.zeros_like(TOKEN_GRID)
    kernels, device = machine.kernels, machine.fabric.accelerator
    tokens = TOKEN_GRID[:, None]
    narrow_peak, narrow = machine.peak(quantization.compute)
    wide_peak, wide = machine.peak("bf16")
    rate = np.where(products.narrow, narrow_peak * kernels.compute[narrow], wide_peak * kernels.compute[wide])
    start = np.where(products.narrow, kernels.gemm_start_s[narrow], kernels.gemm_start_s[wide])
    weights = products.k * products.n
    bytes_ = weights * products.weight_bytes + tokens * 2 * (products.k + products.n)
    compute = 2 * tokens * weights / rate
    memory = bytes_ / (device.memory_bytes_per_s * kernels.memory)
    each = np.where(tokens > 0, start + np.hypot(compute, memory), 0.0)
    return np.asarray(each @ products.count, dtype=float)


def _small_seconds(shapes: ReplicaShapes, machine: Machine) -> Array:
    kernels, device = machine.kernels, machine.fabric.accelerator
    scan = shapes.scan_flops / (machine.peak("bf16")[0] * 0.1)
    moved = shapes.elementwise_bytes / (device.memory_bytes_per_s * kernels.memory)
    return np.where(TOKEN_GRID > 0, shapes.kernels * kernels.kernel_s + TOKEN_GRID * (moved + scan), 0.0)


def _attention_start_seconds(shapes: ReplicaShapes, machine: Machine) -> Array:
    layers = sum(each.layers for each in shapes.attention)
    return np.where(TOKEN_GRID > 0, layers * machine.kernels.attention_start_s * machine.engine.attention, 0.0)


def _context_costs(
    shapes: ReplicaShapes, machine: Machine, quantization: Quantization, imbalance: float
) -> tuple[ContextCost, ...]:
    kernels, device = machine.kernels, machine.fabric.accelerator
    peak = machine.peak("bf16")[0]
    share = kernels.decode_attention if quantization.cache == "bf16" else kernels.decode_attention_fp8
    found: dict[int | None, list[float]] = {}
    for each in shapes.attention:
        read = each.cache_elements * quantization.cache_bytes / (device.memory_bytes_per_s * share)
        work = each.decode_flops / (peak * kernels.decode_attention_compute)
        pair = each.pair_flops / (peak * kernels.prefill_attention)
        sums = found.setdefault(each.window, [0.0, 0.0])
        sums[0] += each.layers * float(np.hypot(read, work)) * imbalance * machine.engine.attention
        sums[1] += each.layers * pair * imbalance * machine.engine.attention
    return tuple(ContextCost(window=window, read_s=read, pair_s=pair) for window, (read, pair) in found.items())


def _expert_seconds(shapes: ReplicaShapes, machine: Machine, layout: Layout, quantization: Quantization) -> Array:
    total = np.zeros_like(TOKEN_GRID)
    for each in shapes.experts:
        total += each.layers * _one_expert_layer(each, machine, layout, quantization)
    return total


def _one_expert_layer(each: ExpertClass, machine: Machine, layout: Layout, quantization: Quantization) -> Array:
    """Grouped products of the experts that see a token: E (1 − (1 − k/E)^T) of them when routing is even.

    Under ep the fullest rank sets the time: its tokens are `imbalance` times the mean.
    """
    kernels, device = machine.kernels, machine.fabric.accelerator
    peak, format_ = machine.peak(quantization.expert_compute)
    tokens = TOKEN_GRID
    skew = machine.engine.imbalance if layout.ep > 1 else 1.0
    routed = tokens * each.topk / layout.ep * skew
    busy = each.held * -np.expm1(tokens * np.log1p(-min(each.topk / each.experts, 1 - 1e-12)))
    busy = np.minimum(busy * (1 + (skew - 1) / 2), each.held)
    rows = routed + np.minimum(busy, routed) * kernels.expert_rows
    compute = rows * each.flops / (peak * kernels.expert_compute[format_])
    moved = busy * each.weights * quantization.expert_bytes + routed * 2 * (2 * each.hidden + 3 * each.inner)
    memory = moved / (device.memory_bytes_per_s * kernels.expert_memory)
    return np.where(tokens > 0, kernels.expert_start_s + np.hypot(compute, memory), 0.0)


def _reduce(machine: Machine, shapes: ReplicaShapes, ranks: int) -> Array:
    if ranks == 1:
        return np.zeros_like(TOKEN_GRID)
    size = TOKEN_GRID * shapes.hidden * 2
    seconds = machine.fabric.all_reduce_seconds(size, ranks, machine.kernels.small_reduce_s)
    return np.where(TOKEN_GRID > 0, seconds * machine.engine.reduce, 0.0)


def _stage_transfers(shapes: ReplicaShapes, machine: Machine, layout: Layout) -> Array:
    """Transfers over the whole stage, by its tokens; each attention group holds its share of them.

    Dispatch sends fp8 activations and combine returns bf16 ones, each token once to every rank that holds one of its
    experts (DeepSeek-V3 technical report, section 3.2.2).
    """
    total = shapes.stage_reduces * _reduce(machine, shapes, layout.stage_devices)
    size = TOKEN_GRID * shapes.hidden
    ranks = layout.stage_devices
    if shapes.gathers:
        total = total + shapes.gathers * machine.engine.reduce * (
            machine.fabric.seconds("all_gather", size * 2, ranks)
            + machine.fabric.seconds("reduce_scatter", size * 2, ranks)
        )
    if shapes.exchanges:
        topk = max(each.topk for each in shapes.experts)
        copies = ranks * (1 - (1 - 1 / ranks) ** topk)
        sent = size / layout.attn_dp / layout.tp * copies
        exchange = machine.fabric.seconds("all_to_all", sent, ranks) + machine.fabric.seconds(
            "all_to_all", 2 * sent, ranks
        )
        total = total + shapes.exchanges * machine.engine.reduce * exchange
    return np.where(TOKEN_GRID > 0, total, 0.0)


def _send(machine: Machine, shapes: ReplicaShapes, layout: Layout) -> Array:
    across = layout.devices > machine.fabric.domain_devices
    return machine.fabric.send_seconds(TOKEN_GRID * shapes.hidden * 2 / layout.tp, across)

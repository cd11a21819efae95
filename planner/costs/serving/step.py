"""Time of one engine step: any mix of prompt chunks and decoding sequences, at any context lengths.

A step of T tokens costs the sum over kernels of their rooflines (Williams et al. 2009, smoothed: see Kernels), the
transfers of the layout, and the engine's own time; `formulas` puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardwright.models import ModelGraph

from ...workload.serving_layout import Layout, Quantization, Speculation
from .coefficients import Engine, Kernels
from .communication import Fabric
from .formulas import TOKEN_GRID, Array, ContextCost, StepCost
from .measured import MeasuredOperators
from .shapes import ExpertClass, Products, ReplicaShapes, replica_shapes


@dataclass(frozen=True, slots=True)
class Machine:
    """What a copy runs on and with: devices and links, kernels, engine, how slow its hosts are, measured operators."""

    fabric: Fabric
    kernels: Kernels
    engine: Engine
    host: float = 1.0
    operators: MeasuredOperators | None = None

    def peak(self, compute: str) -> tuple[float, str]:
        """FLOP/s for products in a format, and the format the device really computes in."""
        peaks = self.fabric.accelerator.peak_flops
        chain = {
            "fp4": ("fp4", "fp8", "bf16", "fp16"),
            "fp8": ("fp8", "bf16", "fp16"),
            "int8": ("int8", "bf16", "fp16"),
        }
        for format_ in chain.get(compute, ("bf16", "fp16", "fp32")):
            fitted = "bf16" if format_ in ("fp16", "fp32") else format_
            if format_ in peaks and fitted in self.kernels.compute and fitted in self.kernels.expert_compute:
                return peaks[format_], fitted
        return max(peaks.values()), "bf16"


@dataclass(frozen=True, slots=True)
class LayerTables:
    """Seconds of all layers by tokens of one attention group, by tokens of the stage, and by sequences (the head)."""

    own_s: Array
    stage_s: Array
    head_s: Array


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
    tables: LayerTables | None = None,
) -> StepCost:
    """The same from shapes already derived, and from `layer_tables` of a layout that differs in pp alone, if known."""
    engine, host = machine.engine, machine.host
    tables = tables or layer_tables(shapes, machine, layout, quantization)
    imbalance = shapes.stage_imbalance
    sends = (layout.pp - 1) * _send(machine, shapes, layout) if layout.pp > 1 else np.zeros_like(TOKEN_GRID)
    drafted = speculation.draft_tokens if speculation else 0
    return StepCost(
        own_s=tables.own_s * imbalance + sends,
        stage_s=tables.stage_s * imbalance,
        head_s=tables.head_s,
        contexts=_context_costs(shapes, machine, quantization, imbalance),
        launch_s=_kernel_count(shapes) * engine.launch_s * host,
        decode_launch_s=0.0 if engine.graphs else _kernel_count(shapes) * engine.launch_s * host,
        step_s=(engine.step_s + (engine.stage_s * layout.pp if layout.pp > 1 else 0.0)) * host,
        sequence_s=engine.sequence_s * host,
        prefill_s=engine.prefill_s * host,
        prompt_s=engine.prompt_s * host,
        token_s=engine.token_s,
        request_s=engine.request_s,
        overlap=engine.overlap,
        fill=layout.pp - 1,
        groups=layout.attn_dp,
        pp=layout.pp,
        cp=layout.cp,
        tokens_per_step=speculation.tokens_per_step if speculation else 1.0,
        tokens_checked=1 + drafted,
        draft=drafted * speculation.draft_cost if speculation else 0.0,
    )


def layer_tables(shapes: ReplicaShapes, machine: Machine, layout: Layout, quantization: Quantization) -> LayerTables:
    """Kernels and transfers of all layers by tokens, whatever stages the layers are divided over."""
    kernels = machine.kernels
    own = _product_seconds(shapes.own, machine, quantization) + _small_seconds(shapes, machine)
    own += _attention_start_seconds(shapes, machine)
    own += shapes.reduces * _reduce(machine, shapes, layout.tp)
    stage = _expert_seconds(shapes, machine, layout, quantization) + _stage_transfers(shapes, machine, layout)
    if layout.cp > 1:
        own += shapes.layers * machine.fabric.seconds("all_gather", TOKEN_GRID * shapes.hidden * 2, layout.cp)
    scan = shapes.scan_bytes_per_sequence / (machine.fabric.accelerator.memory_bytes_per_s * kernels.memory)
    head = _product_seconds(shapes.head, machine, quantization) + TOKEN_GRID * scan
    return LayerTables(own, stage, head)


def _kernel_count(shapes: ReplicaShapes) -> float:
    """Kernels a step launches: products (with what narrows their input), small ones, attention, reductions, experts.

    Latent attention also rotates, concatenates, narrows and appends its parts in kernels of their own.
    """
    products = float((1 + shapes.own.narrow) @ shapes.own.count)
    attention = sum((8 if each.latent else 2) * each.layers for each in shapes.attention)
    experts = sum(8 * each.layers for each in shapes.experts)
    return products + shapes.kernels + attention + experts + shapes.reduces + shapes.stage_reduces


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
    each = np.where(tokens > 0, start * machine.engine.start + np.hypot(compute, memory) * machine.engine.gemm, 0.0)
    if machine.operators is not None:
        formats = np.where(products.narrow, quantization.compute, "bf16")
        for place, format_ in enumerate(formats.tolist()):
            measured = machine.operators.product_seconds(format_, products.k[place], products.n[place], TOKEN_GRID)
            if measured is not None:
                each[:, place] = measured
    return np.asarray(each @ products.count, dtype=float)


def _small_seconds(shapes: ReplicaShapes, machine: Machine) -> Array:
    kernels, device = machine.kernels, machine.fabric.accelerator
    scan = shapes.scan_flops / (machine.peak("bf16")[0] * 0.1)
    moved = shapes.elementwise_bytes / (device.memory_bytes_per_s * kernels.memory)
    started = shapes.kernels * kernels.kernel_s * machine.engine.start
    return np.where(TOKEN_GRID > 0, started + TOKEN_GRID * (moved + scan), 0.0)


def _attention_start_seconds(shapes: ReplicaShapes, machine: Machine) -> Array:
    layers = sum(each.layers for each in shapes.attention)
    return np.where(TOKEN_GRID > 0, layers * machine.kernels.attention_start_s * machine.engine.start, 0.0)


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
        engine = machine.engine
        work *= engine.grouped if each.grouped else 1.0
        sums = found.setdefault(each.window if engine.windows else None, [0.0, 0.0])
        sums[0] += each.layers * float(np.hypot(read, work)) * imbalance * engine.read
        sums[1] += each.layers * pair * imbalance * engine.attention
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
    busy = np.clip(busy * (1 + (skew - 1) / 2), each.held * machine.engine.expert_floor, each.held)
    rows = routed + np.minimum(busy, routed) * kernels.expert_rows
    compute = rows * each.flops / (peak * kernels.expert_compute[format_])
    moved = busy * each.weights * quantization.expert_bytes + routed * 2 * (2 * each.hidden + 3 * each.inner)
    memory = moved / (device.memory_bytes_per_s * kernels.expert_memory)
    started = kernels.expert_start_s[format_] * machine.engine.start
    work = np.hypot(compute * machine.engine.expert_work, memory * machine.engine.expert)
    return np.where(tokens > 0, started + work, 0.0)


def _reduce(machine: Machine, shapes: ReplicaShapes, ranks: int) -> Array:
    if ranks == 1:
        return np.zeros_like(TOKEN_GRID)
    size = TOKEN_GRID * shapes.hidden * 2
    start = machine.kernels.small_reduce_s * machine.engine.start
    rates = (machine.kernels.library_reduce, machine.kernels.reduce_rate)
    seconds = machine.fabric.all_reduce_seconds(size, ranks, start, rates)
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
        if machine.engine.reach_ranks == ranks:
            copies = machine.engine.reach
        sent = size / layout.attn_dp / layout.tp * copies
        exchange = machine.fabric.seconds("all_to_all", sent, ranks) + machine.fabric.seconds(
            "all_to_all", 2 * sent, ranks
        )
        total = total + shapes.exchanges * machine.engine.reduce * exchange
    return np.where(TOKEN_GRID > 0, total, 0.0)


def _send(machine: Machine, shapes: ReplicaShapes, layout: Layout) -> Array:
    across = layout.devices > machine.fabric.domain_devices
    return machine.fabric.send_seconds(TOKEN_GRID * shapes.hidden * 2 / layout.tp, across)

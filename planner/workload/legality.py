"""Which strategies a launcher accepts for a model, a job and a number of devices, and why not.

Every rule is one array test over a strategy table and one sentence; the same rules filter the search space, refuse a
strategy given by hand, and check a finished plan. They follow Megatron-LM's argument checks (arguments.py,
transformer_config.py, schedules.py, core 0.19).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.models import Attention, Experts, Linear, ModelGraph, Scan

from ..strategy import (
    CONTEXT_COMMS,
    EXPERT_OVERLAPS,
    OFFLOADS,
    RECOMPUTE_MODULES,
    RECOMPUTES,
    SCHEDULES,
    SYNCS,
    Schedule,
    Strategy,
)
from .strategy_table import ALL_LAYERS, BALANCED, CUSTOM, EVEN, Ints, StrategyTable, module_bits, table_of
from .training import TrainingJob

Mask = NDArray[np.bool_]
_PAIRS = SYNCS.index("pairs")


@dataclass(frozen=True, slots=True)
class Facts:
    """What legality asks of a model, a job and a cluster.

    `heads` and `kv_heads` are those of every attention kind; `experts` and `expert_widths` are empty for dense
    models; `modules` are the recompute modules the model has.
    """

    devices: int
    gbs: int
    sequence: int
    layers: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    widths: tuple[int, ...]
    experts: tuple[int, ...]
    expert_widths: tuple[int, ...]
    scans: bool
    latent: bool
    shared_expert: bool
    tiers: tuple[str, ...]
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One test over a table and the sentence for a strategy that fails it."""

    name: str
    holds: Callable[[StrategyTable, Facts], Mask]
    reason: Callable[[Strategy, Facts], str]


def facts(model: ModelGraph, job: TrainingJob, devices: int) -> Facts:
    """What legality asks, from a model, a job and a number of devices."""
    operators = [op for block in model.blocks for op in block.operators]
    attention = [op for op in operators if isinstance(op, Attention)]
    experts = [op for op in operators if isinstance(op, Experts)]
    layers = [op for block in model.blocks if block.role == "layer" for op in block.operators]
    names = {op.name for op in operators}
    latent = any(op.latent_features for op in attention)
    present = {
        "core_attention": bool(attention),
        "norm": any(name.endswith("_norm") for name in names),
        "activation": any(name.endswith("_activation") for name in names) or bool(experts),
        "mla_up": latent,
        "mlp": any(name.startswith("mlp_") and name.endswith("down") for name in names),
        "experts": bool(experts),
    }
    return Facts(
        devices=devices,
        gbs=job.gbs,
        sequence=job.sequence_length,
        layers=model.num_layers,
        heads=tuple(sorted({op.heads for op in attention})),
        kv_heads=tuple(sorted({op.kv_heads for op in attention})),
        widths=tuple(sorted({op.in_features for op in layers if isinstance(op, Linear) and op.split == "row"})),
        experts=tuple(sorted({op.experts for op in experts})),
        expert_widths=tuple(
            sorted({each.in_features for op in experts for each in op.body if isinstance(each, Linear)})
        ),
        scans=any(isinstance(op, Scan) for op in operators),
        latent=latent,
        shared_expert=any(name.startswith("shared_") for name in names),
        tiers=("cpu", "nvme") if job.nvme_tier is not None else ("cpu",),
        modules=tuple(name for name in RECOMPUTE_MODULES if present[name]),
    )


def _all_divide(counts: tuple[int, ...], degree: NDArray[np.int64]) -> Mask:
    result: Mask = np.ones(len(degree), bool)
    for count in counts:
        result &= count % degree == 0
    return result


def _kv_fit(t: StrategyTable, f: Facts) -> Mask:
    result: Mask = np.ones(len(t), bool)
    for count in f.kv_heads:
        result &= (count % t.tp == 0) | (t.tp % count == 0)
    return result


def _layers_fit(t: StrategyTable, f: Facts) -> Mask:
    chunks = t.virtual_stages
    even = (t.layout != EVEN) | (f.layers % chunks == 0)
    enough = (t.layout != BALANCED) | (f.layers + 2 >= chunks)
    right = np.ones(len(t), bool)
    for row in np.flatnonzero(t.layout >= CUSTOM):
        layers = t.custom_layouts[t.layout[row] - CUSTOM]
        # Interleaved, a virtual stage may be empty where its rank has another; the ends hold more than layers.
        ranks = t.pp[row] if t.schedule[row] == SCHEDULES.index("interleaved") else len(layers)
        busy = all(any(layers[rank::ranks]) for rank in range(1, ranks - 1))
        right[row] = sum(layers) == f.layers and busy and (min(layers[0], layers[-1]) > 0 or not t.vocab_parallel[row])
    return np.asarray(even & enough & right)


def _schedule(t: StrategyTable, name: Schedule) -> Mask:
    return np.asarray(t.schedule == SCHEDULES.index(name))


def _microbatches(t: StrategyTable, f: Facts) -> Ints:
    result: Ints = f.gbs // np.maximum(t.mbs * t.dp, 1)
    return result


def _inner_context(t: StrategyTable, f: Facts) -> Ints:
    """Context ranks that swap heads in "a2a+p2p": as many as the kv heads of a tp rank allow."""
    inner = t.cp
    for count in f.kv_heads:
        inner = np.gcd(inner, np.maximum(count // t.tp, 1))
    return inner


def _partition(t: StrategyTable, column: Ints, zero: int) -> Mask:
    """A partition over fewer ranks than the states' divides those, and exists from a ZeRO stage on."""
    ranks = t.cp * t.dp_shard
    result: Mask = (column == 0) | ((t.zero >= zero) & (ranks % np.maximum(column, 1) == 0))
    return result


def _tier_given(column: Ints, f: Facts) -> Mask:
    result: Mask = (column != OFFLOADS.index("nvme")) | ("nvme" in f.tiers)
    return result


def _expert_overlap(t: StrategyTable, f: Facts) -> Mask:
    shared = (t.ep_overlap != EXPERT_OVERLAPS.index("shared")) | f.shared_expert
    paired = (t.ep_overlap != EXPERT_OVERLAPS.index("microbatch")) | (
        (_microbatches(t, f) >= 2) & ((t.pp == 1) | (t.vpp > 1) | _schedule(t, "dualpipe"))
    )
    return np.asarray((t.ep_overlap == 0) | ((t.ep > 1) & shared & paired))


def _modules_fit(t: StrategyTable, f: Facts) -> Mask:
    result: Mask = (t.recompute_modules & ~module_bits(f.modules)) == 0
    return result


RULES: tuple[Rule, ...] = (
    Rule(
        "devices",
        lambda t, f: t.world_size == f.devices,
        lambda s, f: f"tp × cp × dp × pp = {s.world_size} must equal the {f.devices} devices",
    ),
    Rule(
        "batch",
        lambda t, f: f.gbs % (t.mbs * t.dp) == 0,
        lambda s, f: f"gbs {f.gbs} must be a multiple of mbs × dp = {s.mbs} × {s.dp} = {s.mbs * s.dp}",
    ),
    Rule(
        "heads",
        lambda t, f: _all_divide(f.heads, t.tp),
        lambda s, f: f"attention heads {_list(f.heads)} must be a multiple of tp {s.tp}",
    ),
    Rule(
        "kv heads",
        _kv_fit,
        lambda s, f: f"kv heads {_list(f.kv_heads)} must divide tp {s.tp} or be a multiple of it",
    ),
    Rule(
        "widths",
        lambda t, f: _all_divide(f.widths, t.tp),
        lambda s, f: f"feed-forward and projection widths {_list(f.widths)} must be multiples of tp {s.tp}",
    ),
    Rule(
        "sequence",
        lambda t, f: (f.sequence % (np.where(t.cp > 1, 2 * t.cp, 1) * np.where(t.sp == 1, t.tp, 1))) == 0,
        lambda s, f: (
            f"sequence length {f.sequence} must be a multiple of {'2 × cp × tp' if s.sp else '2 × cp'} "
            f"(cp {s.cp}, tp {s.tp}): each cp rank takes two pieces of the causal mask, each tp rank its share under sp"
        ),
    ),
    Rule(
        "sp",
        lambda t, f: (t.sp == 0) | (t.tp > 1),
        lambda s, f: f"sp needs tp of at least 2 but got tp {s.tp}",
    ),
    Rule(
        "context parallel",
        lambda t, f: (t.cp == 1) | (not f.scans),
        lambda s, f: f"cp {s.cp} is not possible: the model has state-space layers, whose recurrence cp cannot divide",
    ),
    Rule(
        "context heads",
        lambda t, f: (
            (t.cp == 1)
            | (t.cp_comm != CONTEXT_COMMS.index("a2a"))
            | (_all_divide(f.heads, t.tp * t.cp) & _all_divide(f.kv_heads, t.tp * t.cp))
        ),
        lambda s, f: (
            f"cp_comm a2a needs attention and kv heads {_list((*f.heads, *f.kv_heads))} to be multiples of "
            f"tp × cp = {s.tp * s.cp}"
        ),
    ),
    Rule(
        "context groups",
        lambda t, f: (
            (t.cp == 1)
            | (t.cp_comm != CONTEXT_COMMS.index("a2a+p2p"))
            | ((_inner_context(t, f) > 1) & (_inner_context(t, f) < t.cp))
        ),
        lambda s, f: (
            f"cp_comm a2a+p2p needs a part of cp {s.cp} between 1 and cp that divides the kv heads "
            f"{_list(f.kv_heads)} of a tp rank (tp {s.tp})"
        ),
    ),
    Rule(
        "layers",
        _layers_fit,
        lambda s, f: (
            f"the {f.layers} layers must be divided over {s.virtual_stages} virtual stages without an empty one "
            "(but the first and the last, which hold embedding and head, and interleaved ones whose rank has another)"
        ),
    ),
    Rule(
        "vpp",
        lambda t, f: (t.vpp == 1) | (t.pp > 1),
        lambda s, f: f"vpp {s.vpp} needs pp of at least 2 but got pp {s.pp}",
    ),
    Rule(
        "interleaving",
        lambda t, f: (t.vpp > 1) == _schedule(t, "interleaved"),
        lambda s, f: f"vpp {s.vpp} and schedule {s.schedule} contradict each other: interleaved means vpp above 1",
    ),
    Rule(
        "dualpipe",
        lambda t, f: (
            ~_schedule(t, "dualpipe")
            | ((t.pp % 2 == 0) & (_microbatches(t, f) % 2 == 0) & (_microbatches(t, f) >= 2 * t.pp))
        ),
        lambda s, f: (
            f"dualpipe needs an even pp and an even number of micro-batches of at least 2 × pp = {2 * s.pp} but got "
            f"pp {s.pp} and {f.gbs // (s.mbs * s.dp)} micro-batches"
        ),
    ),
    Rule(
        "micro-batches",
        lambda t, f: (t.vpp == 1) | (_microbatches(t, f) % t.pp == 0),
        lambda s, f: f"interleaving needs the {f.gbs // (s.mbs * s.dp)} micro-batches to be a multiple of pp {s.pp}",
    ),
    Rule(
        "experts",
        lambda t, f: _all_divide(f.experts, t.ep) & ((t.ep == 1) | bool(f.experts)),
        lambda s, f: (
            f"the {_list(f.experts)} experts must be a multiple of ep {s.ep}"
            if f.experts
            else f"ep {s.ep} needs a model with experts"
        ),
    ),
    Rule(
        "expert tensor parallel",
        lambda t, f: _all_divide(f.expert_widths, t.etp) & ((t.etp == 1) | bool(f.experts)),
        lambda s, f: (
            f"expert widths {_list(f.expert_widths)} must be multiples of etp {s.etp}"
            if f.experts
            else f"etp {s.etp} needs a model with experts"
        ),
    ),
    Rule(
        "expert ranks",
        lambda t, f: (t.tp * t.cp * t.dp) % (t.ep * t.etp) == 0,
        lambda s, f: f"ep × etp = {s.ep * s.etp} must divide tp × cp × dp = {s.tp * s.cp * s.dp}",
    ),
    Rule(
        "expert replicas",
        lambda t, f: (not f.experts) | (t.zero == 0) | (t.edp % t.dp_replicate == 0),
        lambda s, f: (
            f"the {s.edp} replicas of each expert must be a multiple of dp_replicate {s.dp_replicate} to be sharded"
        ),
    ),
    Rule(
        "expert tokens",
        lambda t, f: (not f.experts) | (t.tp == 1) | (t.sp == 1),
        lambda s, f: f"experts with tp {s.tp} need sp, so that every rank dispatches its own tokens",
    ),
    Rule(
        "weight partition",
        lambda t, f: _partition(t, t.weight_shard, 3),
        lambda s, f: f"weight_shard {s.weight_shard} needs zero 3 and must divide cp × dp_shard = {s.cp * s.dp_shard}",
    ),
    Rule(
        "gradient partition",
        lambda t, f: _partition(t, t.gradient_shard, 2),
        lambda s, f: (
            f"gradient_shard {s.gradient_shard} needs zero 2 or 3 and must divide cp × dp_shard = {s.cp * s.dp_shard}"
        ),
    ),
    Rule(
        "tiers",
        lambda t, f: _tier_given(t.offload_optimizer, f) & _tier_given(t.offload_activations, f),
        lambda s, f: "offload to nvme needs job.nvme_tier",
    ),
    Rule(
        "tp overlap",
        lambda t, f: (t.tp_overlap == 0) | (t.tp > 1),
        lambda s, f: f"tp_overlap needs tp of at least 2 but got tp {s.tp}",
    ),
    Rule(
        "expert overlap",
        _expert_overlap,
        lambda s, f: (
            f"ep_overlap {s.ep_overlap} needs ep above 1 and "
            + ("a shared expert" if s.ep_overlap == "shared" else "two micro-batches, and vpp above 1 with a pipeline")
        ),
    ),
    Rule(
        "synchronization",
        lambda t, f: (t.sync_period == 1) | ((t.dp_replicate > 1) & ((t.zero > 0) | (t.cp * t.dp_shard * t.ep == 1))),
        lambda s, f: f"sync_period {s.sync_period} needs dp_replicate above 1, and zero beside cp, dp_shard or ep",
    ),
    Rule(
        "synchronization kind",
        lambda t, f: (t.sync == 0) | ((t.sync_period > 1) & (t.dp_replicate % np.where(t.sync == _PAIRS, 2, 1) == 0)),
        lambda s, f: f"sync {s.sync} needs sync_period of at least 2, and an even dp_replicate for pairs",
    ),
    Rule(
        "vocabulary parallel",
        lambda t, f: (t.vocab_parallel == 0) | ((t.pp > 1) & _schedule(t, "1f1b") & (f.layers >= t.pp)),
        lambda s, f: (
            f"vocab_parallel needs pp of at least 2, schedule 1f1b and a layer on every stage but got pp {s.pp}, "
            f"{s.schedule} and {f.layers} layers"
        ),
    ),
    Rule(
        "recompute modules",
        _modules_fit,
        lambda s, f: f"recompute_modules must be among {_list(f.modules)} for this model",
    ),
    Rule(
        "recompute",
        lambda t, f: (t.recompute_modules == 0) | (t.recompute == RECOMPUTES.index("selective")),
        lambda s, f: "recompute_modules need recompute selective",
    ),
    Rule(
        "recomputed layers",
        lambda t, f: (t.recompute_layers == ALL_LAYERS) | (t.recompute == RECOMPUTES.index("full")),
        lambda s, f: "recompute_layers needs recompute full",
    ),
)


def _list(values: tuple[object, ...]) -> str:
    return ", ".join(str(each) for each in values) or "none"


def legal(table: StrategyTable, given: Facts, undecided: tuple[str, ...] = ()) -> Mask:
    """Which rows keep every rule but those named as undecided."""
    result: Mask = np.ones(len(table), bool)
    for rule in RULES:
        if rule.name not in undecided:
            result &= rule.holds(table, given)
    return result


def violations(strategy: Strategy, given: Facts) -> tuple[str, ...]:
    """The sentence of every rule a strategy breaks; empty when it is legal."""
    table = table_of([strategy], given.layers)
    return tuple(rule.reason(strategy, given) for rule in RULES if not bool(rule.holds(table, given)[0]))

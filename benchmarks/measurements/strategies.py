"""The strategy and the job of a row: degrees, sharding, recompute and precision from the words tables use for them."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import msgspec

from shardwright.planner.strategy import Strategy
from shardwright.planner.workload.training import TrainingJob

from .cells import Row, UnusableError, count, flag, required, text
from .frameworks import default_zero, shards_activations
from .shapes import sequence_of

_MODULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"core_?attn|core_?attention|\battn\b|attention", ("core_attention",)),
    (r"layer_?norm|rms_?norm|\bnorm\b", ("norm",)),
    (r"moe_act|activation|\bact\b|swiglu", ("activation",)),
    (r"mla[ _-]*up", ("mla_up",)),
    (r"\bmlp\b|shared_expert", ("mlp",)),
    (r"\bmoe\b|\bexperts?\b", ("experts",)),
    (r"minimal|offload|dots|qkv_proj", ("norm", "activation")),
)


def precision_of(row: Row) -> str:
    """A table's words for a number format as the planner's; raises UnusableError when not given or unknown."""
    words = text(row, "precision").lower().replace("-", "").replace("_", "")
    if not words:
        raise UnusableError("precision not given")
    for pattern, name in ((r"fp4|nvfp4", "fp4"), (r"fp8|float8|f8", "fp8"), (r"bf16|bfloat", "bf16")):
        if re.search(pattern, words):
            return name
    if re.search(r"fp16|float16|half|mixed", words):
        return "fp16"
    if re.search(r"fp32|float32|tf32", words):
        return "fp32"
    raise UnusableError("precision unknown")


def job_of(row: Row, framework: str, gbs: int) -> TrainingJob:
    """The job: batch, sequence, precision, optimizer, and whether only adapters are trained.

    Megatron-DeepSpeed kept fp16 gradients, and under bf16 both 16-bit and fp32 ones.
    """
    settings: dict[str, Any] = {"gbs": gbs, "sequence_length": sequence_of(row), "framework": framework}
    settings["precision"] = precision_of(row)
    if re.search(r"\bmuon\b", text(row, "notes"), re.I):
        settings["optimizer"] = "muon"
    if "deepspeed" in text(row, "framework").lower():
        settings["gradient_bytes"] = 2 if settings["precision"] == "fp16" else 6
    if "lora" in text(row, "task").lower():
        settings["trained"] = "adapters"
    return TrainingJob(**settings)


def strategy_of(row: Row, framework: str) -> tuple[Strategy, tuple[str, ...]]:
    """Every degree of a row, and the assumptions made; raises UnusableError where they do not do."""
    devices, mbs = required(row, "num_gpus"), required(row, "mbs")
    tp, pp = required(row, "tp"), required(row, "pp")
    assumptions: list[str] = []
    cp = _or_one(row, "cp", assumptions)
    if devices % (tp * pp * cp):
        raise UnusableError("degrees do not multiply to num_gpus")
    dp = devices // (tp * pp * cp)
    if (count(row, "dp") or dp) != dp:
        raise UnusableError("degrees do not multiply to num_gpus")
    ep = _experts(row)
    vpp = 1 if pp == 1 else _or_one(row, "vpp", assumptions)
    given_sp = flag(row, "sp")
    sp = tp > 1 and (shards_activations(framework) if given_sp is None else given_sp)
    if tp > 1 and given_sp is None:
        assumptions.append(f"sp not given: {'on' if sp else 'off'}, the custom of {framework}")
    zero, shard = _sharding(row, framework, dp, tp, assumptions)
    if zero == 3 and pp > 1:
        zero = 1
        assumptions.append("sharded data parallel in a pipeline: weights stay whole until the step ends")
    recompute = _recompute(row, framework, assumptions)
    shares = _stage_layers(row, pp)
    both_ways = pp > 1 and vpp == 1 and "dualpipe" in text(row, "framework").lower()
    return Strategy(
        tp=tp,
        pp=pp,
        cp=cp,
        ep=ep,
        vpp=vpp,
        mbs=mbs,
        sp=sp,
        zero=zero,
        dp_shard=shard,
        dp_replicate=dp // shard,
        stage_layers=shares,
        schedule="dualpipe" if both_ways else "1f1b",
        **recompute,
    ), tuple(assumptions)


def with_overlap(strategy: Strategy, framework: str, domain: int, gbs: int) -> tuple[Strategy, tuple[str, ...]]:
    """The strategy with what Megatron-Bridge's recipes do where experts lie across scale-up domains and pipelines are
    interleaved: one micro-batch's dispatch hides behind another (`moe_a2a_overlap`)."""
    interleaved = strategy.pp > 1 and strategy.vpp > 1 and gbs > strategy.mbs * strategy.dp
    if framework not in ("megatron-2025", "megatron-2026") or strategy.ep <= domain or not interleaved:
        return strategy, ()
    return (
        msgspec.structs.replace(strategy, ep_overlap="microbatch"),
        ("dispatch across nodes hidden behind another micro-batch, the custom of Megatron-Bridge with vpp",),
    )


def _or_one(row: Row, column: str, assumptions: list[str]) -> int:
    value = count(row, column)
    if value is None and not text(row, column):
        assumptions.append(f"{column} not given: 1")
    return value or 1


def _experts(row: Row) -> int:
    ep = count(row, "ep")
    if ep is None and count(row, "experts"):
        raise UnusableError("ep not given")
    return ep or 1


def _sharding(row: Row, framework: str, dp: int, tp: int, assumptions: list[str]) -> tuple[int, int]:
    """ZeRO stage and the data-parallel ranks it divides over."""
    words = text(row, "zero_distopt").lower()
    nodes = count(row, "nodes") or 1
    if not words:
        zero = default_zero(framework)
        if dp > 1:
            assumptions.append(f"zero not given: {zero}, the custom of {framework}")
        return zero, dp
    stage = re.search(r"zero[- ]?(\d)", words)
    if stage:
        zero = min(int(stage.group(1)), 3)
    elif re.search(r"grad_op", words):
        zero = 2
    elif re.search(r"fsdp|fully[- ]sharded|full_shard|hsdp", words):
        zero = 3
    elif re.search(r"dist|sharded", words):
        zero = 1
    elif re.search(r"none|no\b|off|0", words):
        zero = 0
    else:
        raise UnusableError("sharding of the optimizer unknown")
    width = re.search(r"(?:group|shard|ici|fsdp)s? ?[=:] ?(\d+)", words) or re.search(r"(\d+)-way", words)
    shard = dp
    if width:
        shard = int(width.group(1))
    elif "hsdp" in words or "hybrid" in words:
        shard = max(1, dp * tp // nodes // tp)
        assumptions.append("hybrid sharding: within a node")
    return zero, shard if 0 < shard <= dp and dp % shard == 0 else dp


def _recompute(row: Row, framework: str, assumptions: list[str]) -> dict[str, Any]:
    words = text(row, "recompute").lower()
    if not words:
        assumptions.append("recompute not given: none")
        return {"recompute": "none"}
    if re.fullmatch(r"none|no|off|0|false", words):
        return {"recompute": "none"}
    layers = re.search(r"full.*?(\d+) ?layers?", words)
    if re.match(r"full|block|uniform|all|yes|1|true", words):
        return {"recompute": "full", "recompute_layers": int(layers.group(1)) if layers else None}
    if not re.match(r"sel|partial|minimal|op\b|\w+", words):
        raise UnusableError("recompute unknown")
    detail = words.split(":", 1)[1] if ":" in words else ""
    modules = [name for pattern, names in _MODULES if re.search(pattern, detail) for name in names]
    if modules:
        return {"recompute": "selective", "recompute_modules": tuple(sorted(set(modules)))}
    if framework.startswith("fsdp"):
        layers_count = count(row, "layers")
        if layers_count is None or layers_count < 2:
            raise UnusableError("selective recompute of unstated layers")
        assumptions.append("selective recompute of PyTorch: every second layer")
        return {"recompute": "full", "recompute_layers": layers_count // 2}
    if detail:
        assumptions.append("selective recompute of unknown modules: core attention")
    return {"recompute": "selective", "recompute_modules": ("core_attention",)}


def _stage_layers(row: Row, pp: int) -> tuple[int, ...] | None:
    """Layers of each stage where the notes give cuts into [embedding, cast, layers…, cast, norm, head, loss]."""
    cuts = re.search(r"layer split ([\d, ]+)", text(row, "notes"))
    layers = count(row, "layers")
    if cuts is None or layers is None or pp == 1:
        return None
    return layers_between([int(each) for each in re.findall(r"\d+", cuts.group(1))], layers)


def layers_between(cuts: list[int], layers: int) -> tuple[int, ...]:
    """Transformer layers between cuts into AMP's layer list, whose layers stand at positions 2 to layers + 1."""
    inside = [min(max(cut - 2, 0), layers) for cut in cuts]
    return tuple(high - low for low, high in pairwise(inside))


def batch_of(row: Row, strategy: Strategy) -> tuple[int, float, tuple[str, ...]]:
    """The batch as whole micro-batches, what part of the row's batch that is, and the assumption made if not all."""
    gbs = required(row, "gbs")
    step = strategy.mbs * strategy.dp
    if gbs % step == 0:
        return gbs, 1.0, ()
    nearest = max(1, round(gbs / step)) * step
    if abs(nearest / gbs - 1) > 0.05:
        raise UnusableError("gbs is not a multiple of mbs × dp")
    return nearest, nearest / gbs, ("gbs rounded to a multiple of mbs × dp",)

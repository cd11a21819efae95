"""NVIDIA's published training recipes in this planner's words, and for each that cannot be, the reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from benchmarks.measurements.clusters import cluster_of, topology_of
from shardwright import models
from shardwright.planner.errors import ShardwrightError
from shardwright.planner.strategy import RecomputeModule, Strategy
from shardwright.planner.workload.legality import facts, violations
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import Topology

# The text model is what the degrees of a vision-language recipe split; GLM 5.1 is GLM 5 with other weights.
MODELS = {
    "llama31_405b": "llama-3.1-405b",
    "llama3_70b": "llama-3-70b",
    "llama3_8b": "llama-3-8b",
    "qwen3_235b_a22b": "qwen3-235b-a22b",
    "qwen3_30b_a3b": "qwen3-30b-a3b",
    "qwen3_vl_235b_a22b": "qwen3-235b-a22b",
    "qwen3_vl_30b_a3b": "qwen3-30b-a3b",
    "qwen3_next_80b_a3b": "qwen3-next-80b-a3b",
    "qwen35_vl_35b_a3b": "qwen3.5-35b-a3b",
    "qwen35_vl_122b_a10b": "qwen3.5-122b-a10b",
    "qwen35_vl_397b_a17b": "qwen3.5-397b-a17b",
    "deepseek_v3": "deepseek-v3",
    "kimi_k2": "kimi-k2",
    "gpt_oss_20b": "gpt-oss-20b",
    "gpt_oss_120b": "gpt-oss-120b",
    "nemotronh_56b": "nemotron-h-56b",
    "nemotron_3_nano": "nemotron-3-nano-30b-a3b",
    "nemotron_3_super": "nemotron-3-super-120b-a12b",
    "nemotron_3_ultra": "nemotron-3-ultra-550b-a55b",
    "glm51": "glm-5",
    "glm52": "glm-5.2",
}
_V4 = "its compressed attention and hyper-connections are in no family here, nor in megatron-core 0.19"
NO_MODEL = {
    "wan_14b": "a video diffusion transformer, no language model",
    "deepseek_v4_flash": _V4,
    "deepseek_v4_pro": _V4,
}

# What the file leaves out, from the recipes themselves (megatron-bridge 0.6.2, megatron/bridge/perf_recipes).
SEQUENCE = 4096
SEQUENCES = {"llama31_405b": 8192, "llama3_70b": 8192, "llama3_8b": 8192, "nemotronh_56b": 8192}
SEQUENCES |= {"nemotron_3_nano": 8192, "nemotron_3_super": 8192, "nemotron_3_ultra": 8192}
TUNING_SEQUENCES = {"glm51": 131072, "glm52": 131072}
OTHER_SEQUENCES = {
    "llama3_8b_sft_8gpu_gb200_bf16_config": 16384,
    "llama3_8b_sft_8gpu_gb200_fp8cs_config": 16384,
    "llama3_70b_peft_8gpu_gb200_bf16_config": 2048,
}
SHARDED = {
    "llama3_70b_pretrain_64gpu_gb200_bf16_config",
    "llama3_70b_pretrain_64gpu_gb200_fp8cs_config",
    "llama3_70b_pretrain_64gpu_b200_fp8cs_config",
    "llama31_405b_pretrain_128gpu_b300_bf16_config",
    "llama3_70b_pretrain_64gpu_b300_bf16_config",
    "llama3_70b_pretrain_64gpu_b300_fp8cs_config",
    "llama31_405b_pretrain_128gpu_gb300_bf16_config",
    "llama31_405b_pretrain_256gpu_gb300_bf16_config",
    "llama3_70b_pretrain_64gpu_gb300_bf16_config",
    "llama3_70b_pretrain_64gpu_gb300_fp8cs_config",
}
# Nemotron 3 Ultra's recipes name these in variables, which the file does not hold: sharded within racks of 64 devices.
ULTRA = {"ep": 64, "gbs": 256, "mbs": 1}
ULTRA_REPLICAS = 4

MODULES: dict[str, RecomputeModule] = {
    "core_attn": "core_attention",
    "layernorm": "norm",
    "moe_act": "activation",
    "mla_up_proj": "mla_up",
    "mlp": "mlp",
    "moe": "experts",
}


@dataclass(frozen=True)
class Recipe:
    """One published plan as this planner writes it; `named` devices are fewer than `devices` where they cannot do."""

    name: str
    model: str
    gpu: str
    named: int
    devices: int
    job: TrainingJob
    strategy: Strategy


def family(name: str) -> str:
    """`llama31_405b` of `llama31_405b_pretrain_128gpu_gb200_bf16_config`."""
    return re.split(r"_(pretrain|peft|sft|lora)", name)[0]


def layout(text: str) -> tuple[int, ...]:
    """Layers of every virtual stage in Megatron-LM's pipeline-layout notation, `Et|(tt|)*30L`."""
    flat = text
    while match := re.search(r"\(([^()]*)\)\*(\d+)", flat):
        flat = flat.replace(match.group(0), match.group(1) * int(match.group(2)), 1)
    flat = re.sub(r"([a-zA-Z])\*(\d+)", lambda found: found.group(1) * int(found.group(2)), flat)
    return tuple(stage.count("t") for stage in flat.split("|"))


def strategy_of(entry: dict[str, Any], devices: int | None = None) -> Strategy:
    """The degrees of a recipe; data parallelism is what is left, its optimizer or weights sharded."""
    name = str(entry["recipe"])
    ultra = family(name) == "nemotron_3_ultra"
    entry = {**entry, **ULTRA} if ultra else entry
    tp, cp, pp = (int(entry.get(degree) or 1) for degree in ("tp", "cp", "pp"))
    dp = (devices or int(entry["num_gpus"])) // (tp * cp * pp)
    details: dict[str, Any] = {}
    modules = tuple(MODULES[each] for each in entry.get("recompute_modules") or () if each in MODULES)
    if entry.get("recompute_num_layers"):
        details = {"recompute": "full", "recompute_layers": int(entry["recompute_num_layers"])}
    elif modules:
        details = {"recompute": "selective", "recompute_modules": modules}
    if family(name) in TUNING_SEQUENCES:
        details |= {"recompute_layers": None, "cp_comm": "all_gather"}
    if entry.get("layout"):
        details["stage_layers"] = layout(entry["layout"])
    replicas = ULTRA_REPLICAS if ultra else 1
    return Strategy(
        tp=tp,
        cp=cp,
        pp=pp,
        sp=tp > 1,
        vpp=int(entry.get("vpp") or 1),
        ep=int(entry.get("ep") or 1),
        etp=int(entry.get("etp") or 1),
        mbs=int(entry.get("mbs") or 1),
        dp_shard=dp // replicas,
        dp_replicate=replicas,
        zero=3 if ultra or name in SHARDED else 1,
        **details,
    )


def devices_for(entry: dict[str, Any]) -> int:
    """The devices named, or the fewest times as many that the recipe's expert ranks divide.

    In Megatron-LM ep × etp ranks share a pipeline stage, so that devices / pp must be a multiple of them.
    """
    named, pp = int(entry["num_gpus"]), int(entry.get("pp") or 1)
    experts = int(entry.get("ep") or 1) * int(entry.get("etp") or 1)
    times = 1
    while named * times // pp % experts:
        times += 1
    return named * times


@lru_cache
def topology_for(gpu: str, devices: int) -> Topology:
    """The cluster a recipe names by its accelerator and number of devices."""
    return topology_of(cluster_of({"gpu": gpu.upper(), "num_gpus": str(devices), "source": "", "notes": ""})[0])


def recipe_of(entry: dict[str, Any], devices: int | None = None) -> Recipe:
    """A recipe in this planner's words, on the devices named or on others. Raises ShardwrightError if it is none."""
    name = str(entry["recipe"])
    kind = family(name)
    precision = next((each for each in ("fp8", "nvfp4", "bf16") if each in name), "bf16").removeprefix("nv")
    known = {**entry, **ULTRA} if kind == "nemotron_3_ultra" else entry
    pretrained = SEQUENCES.get(kind, SEQUENCE) if "_pretrain_" in name else TUNING_SEQUENCES.get(kind, SEQUENCE)
    job = TrainingJob(
        gbs=int(known.get("gbs") or 128),
        sequence_length=OTHER_SEQUENCES.get(name, pretrained),
        precision="fp4" if precision == "fp4" else "fp8" if precision == "fp8" else "bf16",
        framework="megatron-2025",
        gradient_bytes=2,
        trained="adapters" if "_peft_" in name else "all",
    )
    named = int(entry["num_gpus"])
    strategy = strategy_of(entry, devices)
    return Recipe(name, MODELS[kind], str(entry["gpu"]), named, devices or named, job, strategy)


def legal(entry: dict[str, Any]) -> str:
    """Empty when the plan is legal here as it is named, otherwise the first rule it breaks or why it cannot be told.

    Of a model that is not here only the degrees and the batch can be checked.
    """
    kind = family(str(entry["recipe"]))
    if kind in NO_MODEL:
        strategy_of(entry).microbatches(int(entry.get("gbs") or entry["num_gpus"]))
        return f"degrees legal, model not here: {NO_MODEL[kind]}"
    reason = _reason(entry, int(entry["num_gpus"]))
    enough = devices_for(entry)
    if not reason or enough == int(entry["num_gpus"]) or _reason(entry, enough):
        return reason
    return f"{reason}; on {enough} devices it is"


def _reason(entry: dict[str, Any], devices: int) -> str:
    """The first rule that the recipe breaks on so many devices."""
    try:
        recipe = recipe_of(entry, devices)
    except ShardwrightError as error:
        return f"not legal: {error}"
    broken = violations(recipe.strategy, facts(models.model(recipe.model), recipe.job, recipe.devices))
    return f"not legal: {broken[0]}" if broken else ""


def imported(entry: dict[str, Any]) -> Recipe:
    """The recipe on the devices it names, or on as many as its degrees need. Raises ShardwrightError."""
    return recipe_of(entry, devices_for(entry))

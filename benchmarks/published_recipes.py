"""NVIDIA's published training recipes in this planner's words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks.measurements.clusters import cluster_of, topology_of
from shardwright import models
from shardwright.planner.errors import ShardwrightError
from shardwright.planner.strategy import Constraints, RecomputeModule, Strategy
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
    "deepseek_v4_flash": "deepseek-v4-flash",
    "deepseek_v4_pro": "deepseek-v4-pro",
    "wan_14b": "wan2.1-t2v-14b",
}

# What the file leaves out or has otherwise, read by running the recipes (tests/launchers/recipe_facts.py).
FACTS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("published_facts.json").read_text())
USUAL: dict[str, Any] = {
    "tp": 1,
    "pp": 1,
    "cp": 1,
    "vpp": 1,
    "ep": 1,
    "etp": 1,
    "sp": False,
    "gbs": 128,
    "mbs": 1,
    "sequence": 4096,
    "layout": "",
    "cp_comm": "p2p",
    "zero": 1,
    "replicas": 1,
    "optimizer": "adam",
    "gradient_bytes": 2,
    "moment_bytes": 8,
    "offload": False,
    "recompute": "none",
    "recompute_modules": [],
    "recompute_num_layers": None,
}

# Where the ranks of experts do not divide the devices named, what NVIDIA changed afterwards: Megatron-Bridge's pull
# requests 6054 (Qwen3 235B, GB200 and GB300) and 6083 (DeepSeek V3, VR200, back to what had been measured).
_GB200 = {"ep": 8}
_GB300 = {"pp": 2, "layout": ""}
_VR200 = {"pp": 2, "vpp": 8}
CORRECTIONS: dict[str, dict[str, Any]] = {
    "qwen3_235b_a22b_pretrain_64gpu_gb200_fp8cs_config": _GB200,
    "qwen3_235b_a22b_pretrain_64gpu_gb200_fp8mx_config": _GB200,
    "qwen3_235b_a22b_pretrain_64gpu_gb300_bf16_config": _GB300,
    "qwen3_235b_a22b_pretrain_64gpu_gb300_fp8cs_config": _GB300,
    "qwen3_235b_a22b_pretrain_64gpu_gb300_fp8mx_config": {"pp": 2, "layout": "t*3|(t*4|)*22t*3"},
    "deepseek_v3_pretrain_128gpu_vr200_bf16_config": _VR200,
    "deepseek_v3_pretrain_128gpu_vr200_fp8cs_config": _VR200,
    "deepseek_v3_pretrain_128gpu_vr200_fp8mx_config": _VR200,
    "deepseek_v3_pretrain_128gpu_vr200_nvfp4_config": _VR200,
}

# Megatron-Bridge trains Wan in no other way (NVIDIA-NeMo/DFM, docs/megatron/recipes/wan/wan2.1.md).
BRIDGE_VIDEOS = Constraints(pp=(1,), mbs=(1,), zero=(0, 1))

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


def told(entry: dict[str, Any]) -> dict[str, Any]:
    """All that is known of a recipe: what the file says, what is usual where it says nothing, and the facts."""
    said = {key: value for key, value in entry.items() if value is not None}
    if said.get("recompute_num_layers"):
        said["recompute"] = "full"
    elif said.get("recompute_modules"):
        said["recompute"] = "selective"
    return USUAL | said | FACTS.get(str(entry["recipe"]), {}) | entry.get("corrected", {})


def corrected(entry: dict[str, Any]) -> dict[str, Any]:
    """The recipe as NVIDIA corrected it, or the same."""
    return entry | {"corrected": CORRECTIONS.get(str(entry["recipe"]), {})}


def strategy_of(entry: dict[str, Any], devices: int | None = None) -> Strategy:
    """The degrees of a recipe; data parallelism is what is left, its optimizer or weights sharded."""
    known = told(entry)
    tp, cp, pp, replicas = (int(known[degree]) for degree in ("tp", "cp", "pp", "replicas"))
    details: dict[str, Any] = {}
    if known["recompute"] == "full":
        details = {"recompute": "full", "recompute_layers": known["recompute_num_layers"]}
    elif known["recompute"] == "selective":
        modules = tuple(MODULES[each] for each in known["recompute_modules"] if each in MODULES)
        details = {"recompute": "selective", "recompute_modules": modules}
    if known["layout"]:
        details["stage_layers"] = layout(known["layout"])
    return Strategy(
        tp=tp,
        cp=cp,
        pp=pp,
        sp=bool(known["sp"]) and tp > 1,
        vpp=int(known["vpp"]),
        ep=int(known["ep"]),
        etp=int(known["etp"]),
        mbs=int(known["mbs"]),
        cp_comm=known["cp_comm"],
        dp_shard=(devices or int(known["num_gpus"])) // (tp * cp * pp) // replicas,
        dp_replicate=replicas,
        zero=int(known["zero"]),
        **details,
    )


def devices_for(entry: dict[str, Any]) -> int:
    """The devices named, or the fewest times as many that the recipe's expert ranks divide.

    In Megatron-LM ep × etp ranks share a pipeline stage, so that devices / pp must be a multiple of them.
    """
    known = told(entry)
    named, pp, experts = int(known["num_gpus"]), int(known["pp"]), int(known["ep"]) * int(known["etp"])
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
    name, known = str(entry["recipe"]), told(entry)
    precision = next((each for each in ("fp8", "nvfp4", "bf16") if each in name), "bf16").removeprefix("nv")
    job = TrainingJob(
        gbs=int(known["gbs"]),
        sequence_length=int(known["sequence"]),
        precision="fp4" if precision == "fp4" else "fp8" if precision == "fp8" else "bf16",
        optimizer=known["optimizer"],
        framework="megatron-2025",
        gradient_bytes=int(known["gradient_bytes"]),
        moment_bytes=int(known["moment_bytes"]),
        trained="adapters" if "_peft_" in name else "all",
    )
    if family(name) == "wan_14b":
        job = replace(job, constraints=BRIDGE_VIDEOS)
    named = int(entry["num_gpus"])
    strategy = strategy_of(entry, devices)
    return Recipe(name, MODELS[family(name)], str(entry["gpu"]), named, devices or named, job, strategy)


def legal(entry: dict[str, Any]) -> str:
    """Empty when the plan is legal here as it is named, otherwise the first rule it breaks."""
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

"""NVIDIA's published training plans against this planner's: is each legal here, and what is predicted for both.

    python -m benchmarks.published_plans FILE.json [--legal] [--limit N] [--json]

FILE.json holds the recipes of the megatron-bridge wheel (degrees, batch and recompute per model, accelerator and number
of devices). Sequence lengths are not in them and follow the recipes' documentation; nor is FSDP, which is taken where
nothing else would hold the weights; gradients are taken in 16 bits, as the recipes reduce them. With --legal nothing is
searched.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measurements.cells import UnusableError
from benchmarks.measurements.clusters import cluster_of, topology_of
from shardwright import models
from shardwright.planner.errors import ShardwrightError
from shardwright.planner.plan.training import TrainingPlan
from shardwright.planner.strategy import RecomputeModule, Strategy
from shardwright.planner.training import estimate_training, plan_training
from shardwright.planner.workload.legality import facts, violations
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import Topology

MODELS = {
    "llama31_405b": "llama-3.1-405b",
    "llama3_70b": "llama-3-70b",
    "llama3_8b": "llama-3-8b",
    "qwen3_235b_a22b": "qwen3-235b-a22b",
    "qwen3_30b_a3b": "qwen3-30b-a3b",
    "qwen3_vl_235b_a22b": "qwen3-235b-a22b",
    "qwen3_vl_30b_a3b": "qwen3-30b-a3b",
    "qwen3_next_80b_a3b": "qwen3-next-80b-a3b",
    "deepseek_v3": "deepseek-v3",
    "kimi_k2": "kimi-k2",
    "gpt_oss_20b": "gpt-oss-20b",
    "gpt_oss_120b": "gpt-oss-120b",
    "nemotronh_56b": "nemotron-h-56b",
    "nemotron_3_nano": "nemotron-3-nano-30b-a3b",
    "nemotron_3_super": "nemotron-3-super-120b-a12b",
    "glm51": "glm-5",
}
SEQUENCES = {"llama31_405b": 8192, "llama3_70b": 8192, "llama3_8b": 8192, "nemotronh_56b": 8192}
SEQUENCES |= {"nemotron_3_nano": 8192, "nemotron_3_super": 8192}
SEQUENCE = 4096
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
    """One published plan as this planner writes it."""

    name: str
    model: str
    gpu: str
    devices: int
    job: TrainingJob
    strategy: Strategy


@dataclass(frozen=True)
class Outcome:
    """A recipe's fate: `reason` it cannot be compared or is not legal, or both predictions."""

    recipe: str
    reason: str = ""
    theirs: str = ""
    ours: str = ""
    their_s: float | None = None
    our_s: float | None = None
    why: str = ""


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


def strategy_of(entry: dict[str, Any]) -> Strategy:
    """The degrees of a recipe; data parallelism is what is left, its optimizer sharded."""
    tp, cp, pp = (int(entry.get(name) or 1) for name in ("tp", "cp", "pp"))
    dp = int(entry["num_gpus"]) // (tp * cp * pp)
    details: dict[str, Any] = {}
    modules = tuple(MODULES[each] for each in entry.get("recompute_modules") or () if each in MODULES)
    if entry.get("recompute_num_layers"):
        details = {"recompute": "full", "recompute_layers": int(entry["recompute_num_layers"])}
    elif modules:
        details = {"recompute": "selective", "recompute_modules": modules}
    if entry.get("layout"):
        details["stage_layers"] = layout(entry["layout"])
    return Strategy(
        tp=tp,
        cp=cp,
        pp=pp,
        sp=tp > 1,
        vpp=int(entry.get("vpp") or 1),
        ep=int(entry.get("ep") or 1),
        etp=int(entry.get("etp") or 1),
        mbs=int(entry.get("mbs") or 1),
        dp_shard=dp,
        **details,
    )


@lru_cache
def topology_for(gpu: str, devices: int) -> Topology:
    """The cluster a recipe names by its accelerator and number of devices."""
    return topology_of(cluster_of({"gpu": gpu.upper(), "num_gpus": str(devices), "source": "", "notes": ""})[0])


def recipe_of(entry: dict[str, Any]) -> Recipe:
    """A recipe in this planner's words. Raises ShardwrightError when its degrees contradict each other."""
    name = str(entry["recipe"])
    kind = family(name)
    precision = next((each for each in ("fp8", "nvfp4", "bf16") if each in name), "bf16").removeprefix("nv")
    job = TrainingJob(
        gbs=int(entry.get("gbs") or 128),
        sequence_length=SEQUENCES.get(kind, SEQUENCE) if "_pretrain_" in name else SEQUENCE,
        precision="fp4" if precision == "fp4" else "fp8" if precision == "fp8" else "bf16",
        framework="megatron-2025",
        gradient_bytes=2,
        trained="adapters" if "_peft_" in name else "all",
    )
    return Recipe(name, MODELS[kind], str(entry["gpu"]), int(entry["num_gpus"]), job, strategy_of(entry))


def legal(entry: dict[str, Any]) -> str:
    """Empty when the plan is legal here, otherwise the first rule it breaks or why it cannot be told.

    Of a model that the catalog lacks only the degrees and the batch can be checked.
    """
    try:
        if family(str(entry["recipe"])) not in MODELS:
            strategy_of(entry).microbatches(int(entry.get("gbs") or entry["num_gpus"]))
            return "degrees legal, model not in the catalog"
        recipe = recipe_of(entry)
    except ShardwrightError as error:
        return f"not legal: {error}"
    graph = models.model(recipe.model)
    broken = violations(recipe.strategy, facts(graph, recipe.job, recipe.devices))
    return f"not legal: {broken[0]}" if broken else ""


@lru_cache(maxsize=512)
def our_plan(model: str, topology: Topology, job: bytes) -> TrainingPlan:
    """The plan found for a job, once for all recipes that share it."""
    return plan_training(models.model(model), topology, msgspec.json.decode(job, type=TrainingJob))


def their_plan(recipe: Recipe, topology: Topology) -> TrainingPlan:
    """The published plan, with weights sharded (FSDP) where it has no pipeline and would not fit otherwise."""
    graph = models.model(recipe.model)
    made = estimate_training(graph, topology, recipe.job, recipe.strategy)
    if made.optimality.feasible or recipe.strategy.pp > 1 or recipe.strategy.dp == 1:
        return made
    return estimate_training(graph, topology, recipe.job, msgspec.structs.replace(recipe.strategy, zero=3))


def compare(entry: dict[str, Any]) -> Outcome:
    """Both plans' predictions and where they differ."""
    reason = legal(entry)
    if reason:
        return Outcome(entry["recipe"], reason)
    recipe = recipe_of(entry)
    try:
        topology = topology_for(recipe.gpu, recipe.devices)
        theirs = their_plan(recipe, topology)
        ours = our_plan(recipe.model, topology, msgspec.json.encode(recipe.job))
    except (ShardwrightError, UnusableError) as error:
        return Outcome(recipe.name, str(error))
    note = next((each for each in theirs.assumptions if each.startswith("does not fit")), "")
    return Outcome(
        recipe=recipe.name,
        theirs=theirs.strategy.label(),
        ours=ours.strategy.label(),
        their_s=theirs.prediction.step_s,
        our_s=ours.prediction.step_s,
        why=note or difference(theirs, ours),
    )


def difference(theirs: TrainingPlan, ours: TrainingPlan) -> str:
    """The terms in which the published plan takes longest beyond ours, and shortest."""
    changes = sorted((a.value - b.value, a.name) for a, b in zip(theirs.breakdown, ours.breakdown, strict=True))
    shown = (*reversed(changes[-2:]), changes[0])
    return ", ".join(f"{name} {change:+.3g} s" for change, name in shown if change)


def table(outcomes: list[Outcome]) -> str:
    """The comparison as Markdown."""
    lines = [
        "| recipe | published | predicted s | found here | predicted s | published minus found |",
        "|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        if each.their_s is None or each.our_s is None:
            lines.append(f"| {each.recipe} | {each.reason} | | | | |")
        else:
            lines.append(
                f"| {each.recipe} | {each.theirs} | {each.their_s:.3f} | {each.ours} | {each.our_s:.3f} | {each.why} |"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--legal", action="store_true")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    entries = json.loads(Path(options.file).read_text(encoding="utf-8"))["recipes"][: options.limit]
    if options.legal:
        counts = Counter(legal(entry) or "legal" for entry in entries)
        print(json.dumps(dict(counts.most_common()), indent=2))
        return 0
    outcomes = []
    for number, entry in enumerate(entries):
        outcomes.append(compare(entry))
        print(f"{number + 1}/{len(entries)} {entry['recipe']}", file=sys.stderr)
    if options.json:
        print(json.dumps([each.__dict__ for each in outcomes], indent=2))
    else:
        print(table(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())

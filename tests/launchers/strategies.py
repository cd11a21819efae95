"""Legal strategies drawn at random, so that exports are held to more than the plans somebody thought of."""

from __future__ import annotations

from random import Random
from typing import Any

from shardwright import models
from shardwright.planner import Strategy, TrainingJob
from shardwright.planner.errors import InputError
from shardwright.planner.workload.legality import facts, violations

MODELS = (
    "llama-3.1-8b",
    "gpt2-xl",
    "qwen3-30b-a3b",
    "gpt-oss-20b",
    "deepseek-v3",
    "glm-4.5-air",
    "qwen3-next-80b-a3b",
    "nemotron-3-nano-30b-a3b",
)
MODULES = ("core_attention", "norm", "activation", "mlp", "experts", "mla_up")


def drawn(random: Random) -> tuple[str, TrainingJob, Strategy]:
    """A model, a job and a strategy that is legal for both, half of the pipelines with uneven stages."""
    while True:
        name, world = random.choice(MODELS), random.choice((8, 16, 32, 64))
        job = TrainingJob(
            gbs=random.choice((64, 256)),
            sequence_length=random.choice((2048, 4096)),
            precision=random.choice(("bf16", "bf16", "fp8", "fp16")),
            optimizer=random.choice(("adam", "adam", "sgd", "muon")),
        )
        model = models.model(name)
        for _ in range(100):
            fields = _fields(random, world, model.num_layers)
            try:
                strategy = Strategy(**fields)
            except (InputError, ZeroDivisionError):
                continue
            if not violations(strategy, facts(model, job, world)):
                return name, job, strategy


def _fields(random: Random, world: int, layers: int) -> dict[str, Any]:
    tp, cp, pp = random.choice((1, 1, 2, 4, 8)), random.choice((1, 1, 1, 2, 4)), random.choice((1, 1, 2, 3, 4, 8))
    replicas, vpp = random.choice((1, 1, 2, 4)), random.choice((1, 1, 2, 3)) if pp > 1 else 1
    found: dict[str, Any] = {
        "tp": tp,
        "cp": cp,
        "pp": pp,
        "vpp": vpp,
        "schedule": "interleaved" if vpp > 1 else "1f1b",
        "dp_shard": world // (tp * cp * pp) // replicas,
        "dp_replicate": replicas,
        "zero": random.choice((0, 1, 1, 2, 3)),
        "sp": tp > 1 and random.random() < 0.7,
        "mbs": random.choice((1, 1, 2)),
        "ep": random.choice((1, 1, 2, 4, 8)),
        "etp": random.choice((1, 1, 1, 2, tp)),
        "recompute": random.choice(("none", "none", "full", "selective")),
        "cp_comm": random.choice(("p2p", "all_gather", "a2a", "a2a+p2p")) if cp > 1 else "p2p",
    }
    if found["recompute"] == "selective":
        found["recompute_modules"] = tuple(random.sample(MODULES, 2))
    elif found["recompute"] == "full" and random.random() < 0.5:
        found["recompute_layers"] = random.choice((1, 2))
    if pp > 1 and random.random() < 0.5:
        cuts = sorted(random.sample(range(1, layers), pp * vpp - 1))
        found["stage_layers"] = tuple(end - start for start, end in zip((0, *cuts), (*cuts, layers), strict=True))
    return found

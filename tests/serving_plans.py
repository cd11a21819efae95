"""Small named serving plans that exports are tried on."""

from __future__ import annotations

from functools import cache

import msgspec

from shardwright.planner import Layout, Load, ServingJob, ServingPlan, Speculation, estimate_serving

AGGREGATED, PREFILL, DECODE = "aggregated", "prefill", "decode"
TP2, TP4 = Layout(tp=2), Layout(tp=4)
WIDE = Layout(attn_dp=16, ep=16)
Shape = tuple[str, str, tuple[tuple[str, Layout, int], ...], str]

# Model, cluster, pools, number formats.
SHAPES: dict[str, Shape] = {
    "one worker": ("llama-3.1-8b", "dgx-h100:1", ((AGGREGATED, TP2, 1),), "bf16"),
    "two workers on a node": ("llama-3.1-70b", "dgx-h100:1", ((AGGREGATED, TP4, 2),), "fp8+kv8"),
    "uneven stages": ("llama-3.1-70b", "dgx-h100:1", ((AGGREGATED, Layout(tp=2, pp=3), 1),), "bf16"),
    "a stage a node": ("llama-3.1-405b", "dgx-h100:4", ((AGGREGATED, Layout(tp=8, pp=2), 2),), "bf16"),
    "tp over nodes": ("llama-3.1-405b", "gb200-nvl72:1", ((AGGREGATED, Layout(tp=8), 2),), "bf16"),
    "split": ("llama-3.1-70b", "dgx-h100:1", ((PREFILL, TP2, 2), (DECODE, TP4, 1)), "bf16"),
    "split with stages": ("llama-3.1-70b", "dgx-h100:1", ((PREFILL, Layout(tp=2, pp=2), 1), (DECODE, TP4, 1)), "bf16"),
    "wide experts": ("deepseek-v3", "hgx-h200:2", ((AGGREGATED, WIDE, 1),), "fp8"),
    "wide experts, split": ("deepseek-v3", "hgx-h200:4", ((PREFILL, WIDE, 1), (DECODE, WIDE, 1)), "fp8"),
    "groups with stages": ("qwen3-30b-a3b", "dgx-h100:1", ((AGGREGATED, Layout(attn_dp=2, ep=2, pp=2), 1),), "bf16"),
    "groups with tp": ("deepseek-v3", "hgx-h200:1", ((AGGREGATED, Layout(tp=2, attn_dp=4, ep=8), 1),), "fp8"),
    "experts split both ways": (
        "qwen3-30b-a3b", "dgx-h100:1", ((AGGREGATED, Layout(tp=4, ep=2, moe_tp=2), 1),), "bf16"
    ),
}  # fmt: skip


@cache
def plan_of(name: str, engine: str = "vllm", quantization: str | None = None, drafts: int = 0) -> ServingPlan:
    """The plan of that shape, for an engine."""
    model, cluster, pools, formats = SHAPES[name]
    job = ServingJob(
        load=Load(isl=1000, osl=20, concurrency=4, rounds=1),
        engine=engine,
        quantization=quantization or formats,
        speculation=Speculation(draft_tokens=drafts) if drafts else None,
    )
    return estimate_serving(model, cluster, job, pools)


def with_devices(plan: ServingPlan, *devices: tuple[tuple[int, ...], ...]) -> ServingPlan:
    """The same plan with other devices, pool by pool."""
    pools = tuple(
        msgspec.structs.replace(pool, devices=chosen) for pool, chosen in zip(plan.pools, devices, strict=True)
    )
    return msgspec.structs.replace(plan, pools=pools)


def backwards(plan: ServingPlan) -> ServingPlan:
    """The same plan, every worker's devices in the opposite order."""
    return with_devices(plan, *(tuple(worker[::-1] for worker in pool.devices) for pool in plan.pools))

"""The serving plan: which copies of the model run on which devices, and what requests will see."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..workload.serving import Load, Objective, Targets
from ..workload.serving_layout import Layout, Quantization, Speculation
from .base import PlanBase, Term

Phase = Literal["aggregated", "prefill", "decode"]
Mode = Literal["aggregated", "disaggregated", "mixed", "shared", "afd"]


OBJECTIVES: dict[Objective, str] = {
    "throughput": "highest rate of requests per second within the targets",
    "gpus": "devices used",
    "cost": "USD per hour",
    "latency": "mean end-to-end seconds",
    "energy": "joules per output token",
}


def objective_of(goal: Objective, load: Load) -> str:
    """The words in which a plan says what it was made for."""
    if goal == "throughput" and load.concurrency is not None:
        return f"output tokens per second with {load.concurrency} requests in hand"
    return OBJECTIVES[goal]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class EngineSettings(_Record, frozen=True):
    """How every worker of a pool schedules: what the launcher's flags must say."""

    policy: Literal["mixed", "prefill-first"]
    token_budget: int
    max_sequences: int
    memory_fraction: float


class PoolPlan(_Record, frozen=True):
    """Equal workers of one phase.

    `devices` lists the devices of every worker, pipeline stage by stage, ranks of a stage in order (tp fastest, then
    attn_dp and cp), then those of a `feed_forward` that stands apart. `memory` is one device's bytes by category,
    `capacity_bytes` what it has; `cache_tokens` is the KV cache of a whole worker. `requests_per_s` is what one worker
    can carry within the targets, where the search measured it.
    """

    phase: Phase
    accelerator: str
    layout: Layout
    workers: int
    devices: tuple[tuple[int, ...], ...]
    engine: EngineSettings
    memory: dict[str, int]
    capacity_bytes: int
    cache_tokens: int
    requests_per_s: float
    feed_forward: Layout | None = None


class Latency(_Record, frozen=True):
    """Mean and percentiles of one latency, seconds; `target_s` is its limit at the target percentile, if it has one."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    at_percentile_s: float
    target_s: float | None = None


class Prediction(_Record, frozen=True):
    """What the simulated load sees: latencies from arrival, queueing included, and rates over the whole run."""

    ttft: Latency
    tpot: Latency
    e2e: Latency
    requests: int
    requests_per_s: float
    output_tokens_per_s: float
    output_tokens_per_s_per_device: float
    goodput_per_s: float
    busy_share: float
    preemptions: int
    usd_per_hour: float | None
    joules_per_output_token: float | None


class Transfer(_Record, frozen=True):
    """The KV hand-over from prefill to decode workers: bytes of one prompt token, link rate, what of it shows."""

    bytes_per_token: float
    bytes_per_s: float
    seconds_per_request: float
    exposed_s_per_request: float


class NodeLoss(_Record, frozen=True):
    """What happens when the node fails whose loss hurts most: workers lost, and whether the rest meets the targets."""

    node: str
    devices_lost: int
    workers_lost: int
    targets_met: bool
    ttft_s: float
    tpot_s: float
    requests_per_s: float
    why: str = ""


class Hour(_Record, frozen=True):
    """One hour of a schedule: its rate, and the workers of each pool that carry it."""

    hour: str
    rate_per_s: float
    workers: tuple[int, ...]
    devices: int
    targets_met: bool


class ServingPlan(PlanBase, frozen=True, kw_only=True, tag="serving"):
    """One way to serve a model on a cluster.

    `targets_met` is what the simulation of the load showed; a plan that misses a target is never returned by a search,
    only by an estimate. `idle` says why devices that no pool uses are left over.
    """

    model: str
    cluster: str
    mode: Mode
    load: Load
    trace: str = ""
    targets: Targets
    quantization: Quantization
    speculation: Speculation | None = None
    engine: str
    engine_version: str = ""
    pools: tuple[PoolPlan, ...]
    devices_used: int
    devices_idle: int
    idle: str = ""
    targets_met: bool
    prediction: Prediction
    breakdown: tuple[Term, ...]
    transfer: Transfer | None = None
    node_loss: NodeLoss | None = None
    hours: tuple[Hour, ...] = ()

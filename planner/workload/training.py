"""The training job: what one optimizer step must process, and in which precision."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import InputError
from ..strategy import Constraints
from .experts import ExpertLoad

Precision = Literal["fp32", "fp16", "bf16", "fp8", "fp4"]
Objective = Literal["step_s", "tokens_per_s_per_device", "days", "usd", "energy_j", "peak_memory_bytes"]
Optimizer = Literal["adam", "adam8bit", "sgd", "sgd-momentum", "muon"]

MOST_ROBUSTNESS_SAMPLES = 10_000
MOST_TOKENS = 10**18
MOST_SEQUENCES = MOST_SEQUENCE_TOKENS = 10**9
MOST_BYTES_PER_PARAMETER = 64
MOST_NUMBER = 1e21

Technique = Literal[
    "context",
    "partition",
    "pipeline_sharding",
    "offload",
    "tp_overlap",
    "expert_overlap",
    "low_communication",
    "vocabulary",
    "uneven",
]


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Memory beyond the device, as one device sees its share: bytes, bytes per second each way, and bytes per second
    at which the host updates optimizer states there.

    Raises InputError when a figure is not positive.
    """

    bytes_per_device: float
    bytes_per_s: float
    update_bytes_per_s: float = 25e9

    def __post_init__(self) -> None:
        for name in ("bytes_per_device", "bytes_per_s", "update_bytes_per_s"):
            value = getattr(self, name)
            if not 0 < value <= MOST_NUMBER:
                raise InputError(f"tier.{name} must be a positive number of at most {MOST_NUMBER:g} but got {value}")


def _between(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(f"job.{name} must be at least {least} and at most {most} but got {value}")


class TrainingJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One pretraining job: global batch in sequences, sequence length in tokens, number formats, degree constraints.

    `framework` names the generation of training software whose fitted overheads and overlaps are used. Bytes are per
    parameter: fp32 master weights, both Adam moments, and the accumulated gradient. `memory_margin` is the share of
    the device's memory that a plan must leave free. With `trained` adapters (LoRA) the base weights are frozen: no
    weight gradients, no optimizer states and no gradient transfers are counted, and the adapters as nothing.
    `expert_imbalance` is the load of the fullest expert rank over the mean; None takes the framework's. `expert_load`
    says more of an expert placement on as many ranks as `ep`: its fullest rank and how far tokens are sent.
    `objective` is what a plan minimizes among strategies whose step takes at most `time_limit_s`, per step but for the
    days of the whole token budget; tokens per second and device are maximized.
    `usd_per_device_hour` overrides the catalog's price. `explore` names techniques to try beside the usual ones: other
    exchanges of context ranks, partitions of weights and gradients over fewer ranks, ZeRO 2 and 3 in pipelines (also
    tried where `constraints.zero` names them), offload to `cpu_tier` and `nvme_tier`, fused tensor-parallel overlap,
    hidden expert dispatch, a vocabulary divided over pipeline ranks, uneven stages that recompute what each memory
    asks for, in any schedule, and averaging replicas every many steps, which changes optimization as well as speed.
    With `robustness_samples` the plan says how it fares when bandwidths are other than thought, over that many samples.

    Raises InputError when a count is not positive.
    """

    gbs: int
    sequence_length: int
    precision: Precision = "bf16"
    optimizer: Optimizer = "adam"
    master_weight_bytes: int = 4
    moment_bytes: int = 8
    gradient_bytes: int = 4
    token_budget: int | None = None
    expert_imbalance: float | None = None
    expert_load: ExpertLoad | None = None
    framework: str = "megatron-2024"
    trained: Literal["all", "adapters"] = "all"
    memory_margin: float = 0.05
    objective: Objective = "step_s"
    time_limit_s: float | None = None
    usd_per_device_hour: float | None = None
    explore: tuple[Technique, ...] = ()
    robustness_samples: int = 0
    cpu_tier: Tier | None = None
    nvme_tier: Tier | None = None
    constraints: Constraints = Constraints()

    def __post_init__(self) -> None:
        for name, most in (("gbs", MOST_SEQUENCES), ("sequence_length", MOST_SEQUENCE_TOKENS)):
            _between(name, getattr(self, name), 1, most)
        for name in ("master_weight_bytes", "moment_bytes", "gradient_bytes"):
            _between(name, getattr(self, name), 0, MOST_BYTES_PER_PARAMETER)
        _between("robustness_samples", self.robustness_samples, 0, MOST_ROBUSTNESS_SAMPLES)
        if not 0 <= self.memory_margin < 1:
            raise InputError(f"job.memory_margin must be at least 0 and below 1 but got {self.memory_margin}")
        for name in ("time_limit_s", "usd_per_device_hour"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= MOST_NUMBER:
                raise InputError(f"job.{name} must be a positive number of at most {MOST_NUMBER:g} but got {value}")
        if self.expert_imbalance is not None and self.expert_load is not None:
            raise InputError("job.expert_imbalance and job.expert_load both give the imbalance: leave one out")
        if self.expert_imbalance is not None and not 1 <= self.expert_imbalance <= 1000:
            raise InputError(f"job.expert_imbalance must be from 1 to 1000 but got {self.expert_imbalance}")
        if self.token_budget is not None and not 1 <= self.token_budget <= MOST_TOKENS:
            raise InputError(f"job.token_budget must be at least 1 and at most 1e18 but got {self.token_budget:.6g}")
        if self.objective == "days" and self.token_budget is None:
            raise InputError("job.objective days needs job.token_budget")

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimizer step."""
        return self.gbs * self.sequence_length

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the whole token budget; None without one."""
        return None if self.token_budget is None else -(-self.token_budget // self.tokens_per_step)

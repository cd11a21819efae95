"""The training plan: which strategy, which rank does what on which device, what it holds and how long a step takes."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..strategy import Strategy
from ..workload.training import TrainingJob
from .base import PlanBase, Term
from .frontier import Robustness

Part = Literal["embedding", "head", "mtp"]
AS_EVEN = "stages as even as can be"
CUT_ALIKE = "those and stages of 1F1B or GPipe cut anywhere, all recomputing alike"
CUT_FREELY = "stages cut anywhere, recomputing as much as each needs"
_LETTERS: dict[Part, str] = {"embedding": "E", "mtp": "m", "head": "L"}


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class VirtualStage(_Record, frozen=True):
    """One virtual stage in chain order: the pipeline rank that runs it, its layers, and what else it holds.

    `copy_on` is the rank that holds a second copy of it (DualPipe).
    """

    pipeline_rank: int
    first_layer: int
    layers: int
    holds: tuple[Part, ...] = ()
    copy_on: int | None = None


class StageMemory(_Record, frozen=True):
    """Bytes on every device of one pipeline rank, by category; their sum is `total_bytes`, of what its smallest
    device has, `capacity_bytes`. `moved_bytes` are those it keeps elsewhere, by tier."""

    pipeline_rank: int
    categories: dict[str, int]
    total_bytes: int
    capacity_bytes: int
    moved_bytes: dict[str, int] = {}


class Campaign(_Record, frozen=True):
    """The whole token budget: optimizer steps, days of computing, dollars and joules where known."""

    steps: int
    days: float
    usd: float | None = None
    energy_j: float | None = None


class Prediction(_Record, frozen=True):
    """What one optimizer step takes and yields. Model FLOPs count no recompute; MFU is against `peak_flops`, the dense
    peak of one device at the job's precision. `energy_j` and `usd` are for all devices and one step, None where the
    cluster lacks power or price; `peak_memory_bytes` is of the fullest device."""

    step_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    model_flops_per_s_per_device: float
    peak_flops: float
    mfu: float
    peak_memory_bytes: float
    energy_j: float | None = None
    usd: float | None = None
    campaign: Campaign | None = None


class TrainingPlan(PlanBase, frozen=True, tag="training"):
    """One way to run a training job on a cluster.

    `rank_groups` lists, per axis, the ranks of every group; `rank_to_device[r]` is the topology's device that plays
    rank r. `breakdown` adds up to `prediction.step_s`. Every device of a pipeline rank holds the same, so `memory` has
    one entry per pipeline rank; `capacity_bytes` is what the smallest device has; `job.memory_margin` of each stays
    free.
    """

    model: str
    cluster: str
    job: TrainingJob
    strategy: Strategy
    rank_groups: dict[str, tuple[tuple[int, ...], ...]]
    stages: tuple[VirtualStage, ...]
    rank_to_device: tuple[int, ...]
    memory: tuple[StageMemory, ...]
    capacity_bytes: int
    memory_sources: dict[str, str]
    prediction: Prediction
    breakdown: tuple[Term, ...]
    links: tuple[Term, ...] = ()
    robustness: Robustness | None = None

    def virtual_stages(self) -> tuple[tuple[int, str], ...]:
        """For every virtual stage in chain order, its layers and letters for what else it holds: E embedding, m one
        multi-token-prediction module, L loss."""
        return tuple((stage.layers, "".join(_LETTERS[part] for part in stage.holds)) for stage in self.stages)

"""Megatron-LM's words for number formats: of products, gradients, master weights and moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from .hosts import refuse_unusual

if TYPE_CHECKING:
    from ..strategy import Strategy
    from ..workload.training import TrainingJob
    from .megatron_layer import Arguments

_PRODUCTS: dict[str, Arguments] = {
    "fp32": [],
    "fp16": [("--fp16",)],
    "bf16": [("--bf16",)],
    "fp8": [("--bf16",), ("--fp8-format", "hybrid"), ("--fp8-recipe", "tensorwise")],
    "fp4": [("--bf16",), ("--fp4-format", "e2m1"), ("--fp4-recipe", "nvfp4")],
}
_MOMENTS = {8: ("fp32", "fp32"), 6: ("bf16", "fp32"), 4: ("bf16", "bf16"), 2: ("fp8", "fp8")}
_MASTERS = {4: "fp32", 2: "fp16"}


@dataclass(frozen=True)
class States:
    """The formats of both moments and of master weights."""

    first: str
    second: str
    master: str


def precision_arguments(strategy: Strategy, job: TrainingJob) -> Arguments:
    """The number formats of products, gradients and states. Raises InputError for bytes without a format.

    `pretrain_gpt.py` trains every weight, so adapters are refused.
    """
    refuse_unusual(job, "megatron", ("gradient_bytes", "moment_bytes", "master_weight_bytes"))
    sharded = strategy.zero >= 2
    states = _states(strategy, job)
    found = [*_PRODUCTS[job.precision], *states]
    if job.precision == "fp32":
        return found
    if job.gradient_bytes not in (2, 4):
        raise InputError(
            f"export: megatron keeps gradients in 2 or 4 bytes but got gradient_bytes {job.gradient_bytes}"
        )
    half = "fp16" if job.precision == "fp16" else "bf16"
    if sharded:
        found += [("--megatron-fsdp-main-grads-dtype", "fp32" if job.gradient_bytes == 4 else half)]
    if half == "fp16":
        return [*found, ("--accumulate-allreduce-grads-in-fp32",)] if job.gradient_bytes == 4 else found
    if job.gradient_bytes == 2:
        found += [("--grad-reduce-in-bf16",)]
        if states:
            found += [("--main-grads-dtype", "bf16")]
    return found


def _states(strategy: Strategy, job: TrainingJob) -> Arguments:
    """Master weights and Adam's moments where they are not fp32, which its precision-aware optimizer alone keeps."""
    states = unusual_states(strategy, job, "megatron")
    if states is None:
        return []
    found: Arguments = [("--use-precision-aware-optimizer",)]
    found += [("--exp-avg-dtype", states.first), ("--exp-avg-sq-dtype", states.second)]
    if states.master != "fp32":
        flag = "--megatron-fsdp-main-params-dtype" if strategy.zero >= 2 else "--main-params-dtype"
        found += [(flag, states.master)]
    return found


def unusual_states(strategy: Strategy, job: TrainingJob, launcher: str) -> States | None:
    """The formats of states that are not all fp32. Raises InputError for those that Megatron does not keep."""
    moments = job.moment_bytes if job.optimizer == "adam" else 8
    masters = job.master_weight_bytes if job.precision != "fp32" else 4
    if (moments, masters) == (8, 4):
        return None
    if moments not in _MOMENTS or masters not in _MASTERS:
        raise InputError(
            f"export: {launcher} keeps moments in 2, 4, 6 or 8 bytes and master weights in 2 or 4, "
            f"but got moment_bytes {moments} and master_weight_bytes {masters}"
        )
    if job.optimizer != "adam" or strategy.zero == 0:
        raise InputError(
            f"export: {launcher} keeps moments of {moments} bytes and master weights of {masters} only with adam and "
            "sharded states; constrain zero to 1, 2 or 3, or plan with moment_bytes 8 and master_weight_bytes 4"
        )
    return States(*_MOMENTS[moments], _MASTERS[masters])

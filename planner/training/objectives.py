"""What a plan may minimize, from the time of a step, the time devices are busy in it, and the fullest device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Topology

from ..costs.step import StepCosts, TrainingCosts
from ..errors import InputError
from ..workload.training import Objective, TrainingJob

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measures:
    """Arrays over strategies, or lower bounds on them: seconds of a step, of which a device computes or transfers for
    a micro-batch, and bytes of the fullest device."""

    step_s: Floats
    busy_s: Floats
    memory_bytes: Floats

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Measures:
        """The rows picked by an index or a mask."""
        return Measures(self.step_s[rows], self.busy_s[rows], self.memory_bytes[rows])

    def put(self, rows: slice, step: StepCosts) -> None:
        """Write those of some rows."""
        self.step_s[rows], self.busy_s[rows], self.memory_bytes[rows] = step.step_s, step.busy_s, step.memory_bytes

    def joined(self, other: Measures) -> Measures:
        """These and the other's after them."""
        columns = ("step_s", "busy_s", "memory_bytes")
        return Measures(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in columns))


@dataclass(frozen=True, slots=True)
class Rates:
    """What all devices together cost per second: dollars, and watts while busy and while waiting; None if unknown.
    `device_tokens` are the tokens of a step per device, `steps` those of the token budget."""

    usd_per_s: float | None
    busy_watts: float | None
    waiting_watts: float | None
    device_tokens: float = 1.0
    steps: int | None = None


def rates(topology: Topology, job: TrainingJob, costs: TrainingCosts) -> Rates:
    """Rates of a cluster. Power swings between a share of the rated power while kernels run and a lower one while a
    device waits (Patel et al. 2024, "Characterizing Power Management Opportunities for LLMs in the Cloud")."""
    kinds = [topology.accelerators[kind] for kind in topology.device_accelerator.tolist()]
    prices = [job.usd_per_device_hour or kind.usd_per_hour for kind in kinds]
    watts = [kind.tdp_watts for kind in kinds]
    kernels = costs.device.coefficients.kernels
    power = sum(each for each in watts if each is not None) if all(watts) else None
    return Rates(
        usd_per_s=sum(each for each in prices if each is not None) / 3600 if all(prices) else None,
        busy_watts=None if power is None else power * kernels.busy_power_fraction,
        waiting_watts=None if power is None else power * kernels.waiting_power_fraction,
        device_tokens=job.tokens_per_step / topology.n_devices,
        steps=job.steps,
    )


def energy_j(measures: Measures, given: Rates) -> Floats | None:
    """Joules of a step on all devices, None when the rated power of some device is unknown."""
    if given.busy_watts is None or given.waiting_watts is None:
        return None
    waiting = np.maximum(measures.step_s - measures.busy_s, 0.0)
    return given.busy_watts * measures.busy_s + given.waiting_watts * waiting


def objective_values(objective: Objective, measures: Measures, given: Rates) -> Floats:
    """The value to minimize. Every objective grows with every measure, so that bounds on the measures bound it.

    Raises InputError when the cluster lacks the figure that the objective needs.
    """
    if objective == "energy_j":
        joules = energy_j(measures, given)
        if joules is None:
            raise InputError("job.objective energy_j needs the rated power of every accelerator of the cluster")
        return joules
    if objective == "usd":
        if given.usd_per_s is None:
            raise InputError("job.objective usd needs a price: give job.usd_per_device_hour")
        return measures.step_s * given.usd_per_s
    if objective == "tokens_per_s_per_device":
        return measures.step_s / given.device_tokens
    if objective == "days":
        if given.steps is None:
            raise InputError("job.objective days needs job.token_budget")
        return measures.step_s * given.steps / 86400
    return measures.step_s if objective == "step_s" else measures.memory_bytes


def sense(objective: Objective) -> Literal["min", "max"]:
    """Whether less or more of it is better."""
    return "max" if objective == "tokens_per_s_per_device" else "min"


def shown(objective: Objective, value: float) -> float:
    """The value or bound to show for one that was minimized: tokens per second for seconds per token."""
    if sense(objective) == "min":
        return value
    return 1.0 / value if value > 0 else math.inf

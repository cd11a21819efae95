"""What a plan is made for: model, cluster, job, where they came from, and the cost model of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shardwright.models import ModelGraph
from shardwright.topologies import Topology

from ..costs.step import TrainingCosts
from ..plan.base import Input
from ..workload.training import Objective, TrainingJob
from .objectives import rates
from .search import Goal


@dataclass(frozen=True, slots=True)
class Context:
    """What a plan is made for, and the cost model of it."""

    model: ModelGraph
    topology: Topology
    job: TrainingJob
    inputs: tuple[Input, ...]
    costs: TrainingCosts

    @property
    def goal(self) -> Goal:
        """What to minimize within which limits."""
        return self.goal_of(self.job.objective)

    def goal_of(self, objective: Objective) -> Goal:
        """Another objective within the same limits."""
        limit = math.inf if self.job.time_limit_s is None else self.job.time_limit_s
        given = rates(self.topology, self.job, self.costs)
        return Goal(objective, self.usable_bytes, limit, given)

    @property
    def usable_bytes(self) -> float:
        """What a plan may fill of the smallest device's memory."""
        return self.costs.device.memory_bytes * (1 - self.job.memory_margin)

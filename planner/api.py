"""The public functions: nouns in, a plan out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import inputs
from .plan.io import dump as dump_plan
from .plan.io import load as load_plan

if TYPE_CHECKING:
    from shardwright.models import ModelGraph
    from shardwright.solvers import Stop
    from shardwright.topologies import Topology

    from .plan.base import Input
    from .plan.training import TrainingPlan
    from .strategy import Strategy
    from .workload.training import TrainingJob

    ModelInput = str | ModelGraph | tuple[ModelGraph, Input]
    TopologyInput = str | Topology | tuple[Topology, Input]

__all__ = ["dump_plan", "estimate_training", "load_model", "load_plan", "load_topology", "plan_training"]


def load_model(name: str | Path) -> ModelGraph:
    """The model of a catalog name, a Hugging Face config.json, or a directory that holds one.

    Raises InputError when it is none of these or the configuration is refused.
    """
    return inputs.load_model(str(name))[0]


def load_topology(name: str | Path, measured: str | None = None) -> Topology:
    """The topology of a catalog name such as `dgx-h100:8` or of a topology file, with an mpiGraph matrix if given.

    Raises InputError when it is neither or the description is refused.
    """
    return inputs.load_topology(str(name), measured)[0]


def plan_training(
    model: ModelInput, topology: TopologyInput, job: TrainingJob, *, stop: Stop | None = None
) -> TrainingPlan:
    """The best way to split a training job over a topology, proven within `optimality.gap`.

    A model or topology is named as on the command line, given as an object, or as an object with its input record.
    Raises Infeasible when nothing fits and LimitReached when `stop` ends the search before a plan is found.
    """
    from .training import plan_training as search

    graph, devices, records = _resolved(model, topology)
    return search(graph, devices, job, stop=stop, inputs=records)


def estimate_training(model: ModelInput, topology: TopologyInput, job: TrainingJob, strategy: Strategy) -> TrainingPlan:
    """What one given strategy takes in time and memory, as a plan whose only candidate it is.

    Raises InputError when the strategy is not legal for the model, topology and job.
    """
    from .training import estimate_training as estimate

    graph, devices, records = _resolved(model, topology)
    return estimate(graph, devices, job, strategy, inputs=records)


def _resolved(model: ModelInput, topology: TopologyInput) -> tuple[ModelGraph, Topology, tuple[Input, ...]]:
    if isinstance(model, str):
        model = inputs.load_model(model)
    elif not isinstance(model, tuple):
        model = (model, inputs.model_input(model))
    if isinstance(topology, str):
        topology = inputs.load_topology(topology)
    elif not isinstance(topology, tuple):
        topology = (topology, inputs.topology_input(topology))
    return model[0], topology[0], (model[1], topology[1])

"""The public functions: nouns in, a plan out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from . import inputs
from .errors import InputError
from .plan.io import dump as dump_plan
from .plan.io import load as load_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardwright.models import ModelGraph
    from shardwright.solvers import Stop
    from shardwright.topologies import Topology

    from .experts.cluster import ExpertCluster
    from .experts.request import ExpertRequest
    from .experts.workloads import Workloads
    from .plan.base import Input
    from .plan.expert_phases import ExpertPhasesPlan
    from .plan.experts import ExpertPlan
    from .plan.fleet import FleetPlan
    from .plan.frontier import Frontier
    from .plan.serving import ServingPlan
    from .plan.training import TrainingPlan
    from .strategy import Strategy
    from .workload.fleet import FleetJob
    from .workload.serving import ServingJob, Trace
    from .workload.serving_layout import Layout
    from .workload.training import Objective, TrainingJob

    ModelInput = str | Path | ModelGraph | tuple[ModelGraph, Input]
    TopologyInput = str | Path | Topology | tuple[Topology, Input]

Asked = TypeVar("Asked")

__all__ = [
    "dump_plan",
    "estimate_serving",
    "estimate_training",
    "frontier_training",
    "load_model",
    "load_plan",
    "load_topology",
    "load_trace",
    "plan_expert_phases",
    "plan_experts",
    "plan_fleet",
    "plan_serving",
    "plan_training",
]


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


def load_trace(path: str | Path) -> Trace:
    """The requests of an Azure CSV, a Mooncake JSONL or an APEX JSONL file, in order of arrival.

    Raises InputError naming the line that is wrong.
    """
    from .workload.serving_traces import read_trace

    return read_trace(str(path))


def plan_training(
    model: ModelInput, topology: TopologyInput, job: TrainingJob, *, stop: Stop | None = None
) -> TrainingPlan:
    """The best way to split a training job over a topology, proven within `optimality.gap`.

    A model or topology is named as on the command line, given as an object, or as an object with its input record.
    Raises Infeasible when nothing fits and LimitReached when `stop` ends the search before a plan is found.
    """
    from .training import plan_training as search

    graph, devices, records = _resolved(model, topology)
    return search(graph, devices, _checked(job), stop=stop, inputs=records)


def estimate_training(model: ModelInput, topology: TopologyInput, job: TrainingJob, strategy: Strategy) -> TrainingPlan:
    """What one given strategy takes in time and memory, as a plan whose only candidate it is.

    Raises InputError when the strategy is not legal for the model, topology and job.
    """
    from .training import estimate_training as estimate

    graph, devices, records = _resolved(model, topology)
    return estimate(graph, devices, _checked(job), _checked(strategy), inputs=records)


def plan_serving(
    model: ModelInput,
    topology: TopologyInput,
    job: ServingJob,
    *,
    trace: Trace | None = None,
    hours: Sequence[tuple[str, float]] = (),
) -> ServingPlan:
    """The best deployment of a model for a load, its latency targets met in simulation.

    `trace` is replayed in place of the job's sampled load; `hours` are names and rates of a day, for each of which the
    plan says how many workers carry it. Raises Infeasible with the nearest attainable target or rate when no deployment
    meets the targets.
    """
    from .serving.planning import plan_serving as search

    graph, devices, records = _resolved(model, topology)
    return search(graph, devices, _checked(job), trace=trace, hours=hours, inputs=records)


def estimate_serving(
    model: ModelInput,
    topology: TopologyInput,
    job: ServingJob,
    layouts: Sequence[tuple[str, Layout, int]],
    *,
    trace: Trace | None = None,
) -> ServingPlan:
    """What one given deployment sees of a load: (`aggregated`, `prefill` or `decode`; layout; workers) of every pool.

    Targets may be missed; `targets_met` says so. Raises InputError when a layout does not fit the model or the cluster,
    Infeasible when it does not fit in memory.
    """
    from .serving.planning import estimate_serving as estimate

    graph, devices, records = _resolved(model, topology)
    return estimate(graph, devices, _checked(job), layouts, trace=trace, inputs=records)


def frontier_training(
    model: ModelInput,
    topologies: Sequence[TopologyInput],
    job: TrainingJob,
    objectives: tuple[Objective, Objective],
    *,
    stop: Stop | None = None,
) -> Frontier:
    """Every strategy on any of the topologies that none beats in one objective without losing in the other.

    Raises InputError when the objectives are the same or a figure for one is missing, Infeasible when nothing fits.
    """
    from .training import frontier_training as search

    resolved = [_resolved(model, topology) for topology in topologies]
    return search(resolved[0][0], [devices for _, devices, _ in resolved], _checked(job), objectives, stop=stop)


def plan_experts(
    routing: str | Path | Sequence[str | Path] | Workloads,
    cluster: str | Path | int | Topology | ExpertCluster,
    request: ExpertRequest | None = None,
) -> ExpertPlan:
    """Which GPUs hold which expert, from routing files and a topology (or a number of equal GPUs).

    Raises InputError when the routing is refused, lacks what the objective needs, or does not fit the GPUs.
    """
    from .experts.planning import plan_experts as search
    from .experts.request import ExpertRequest

    request = _checked(request or ExpertRequest())
    return search(_workloads(routing, request), _expert_cluster(cluster), request)


def plan_expert_phases(
    routing: Mapping[str, str | Path | Sequence[str | Path] | Workloads],
    cluster: str | Path | int | Topology | ExpertCluster,
    request: ExpertRequest | None = None,
) -> ExpertPhasesPlan:
    """A placement for every phase (prefill, decode) of pools with such GPUs each, from the routing of each phase.

    Raises InputError as `plan_experts` does, and when the phases are not of one model.
    """
    from .experts.phases import plan_expert_phases as search
    from .experts.request import ExpertRequest

    request = _checked(request or ExpertRequest())
    workloads = {phase: _workloads(files, request) for phase, files in routing.items()}
    return search(workloads, _expert_cluster(cluster), request)


def plan_fleet(job: FleetJob, *, what_if: Sequence[str] = ()) -> FleetPlan:
    """The cheapest fleet to rent for a job, or the one that carries most under its budget.

    `what_if` are changes as on the command line (`rate=2`, `without=l4`). Raises Infeasible naming the constraint that
    binds, and InputError for what is not known.
    """
    from .fleet.job import plan_fleet as search
    from .fleet.what_if import parse_what_if

    return search(_checked(job), (), tuple(parse_what_if(text) for text in what_if))


def _workloads(routing: str | Path | Sequence[str | Path] | Workloads, request: ExpertRequest) -> Workloads:
    from .experts.workloads import Workloads, load_workloads

    if isinstance(routing, Workloads):
        return routing
    paths = [routing] if isinstance(routing, str | Path) else list(routing)
    return load_workloads([str(path) for path in paths], None, None, request.held_out)


def _expert_cluster(cluster: str | Path | int | Topology | ExpertCluster) -> ExpertCluster:
    from .experts import cluster as clusters

    if isinstance(cluster, int):
        return clusters.flat_cluster(cluster)
    if isinstance(cluster, str | Path):
        return clusters.cluster_of(*inputs.load_topology(str(cluster)))
    if isinstance(cluster, clusters.ExpertCluster):
        return cluster
    return clusters.cluster_of(cluster, inputs.topology_input(cluster))


def _resolved(model: ModelInput, topology: TopologyInput) -> tuple[ModelGraph, Topology, tuple[Input, ...]]:
    if isinstance(model, str | Path):
        model = inputs.load_model(str(model))
    elif not isinstance(model, tuple):
        model = (model, inputs.model_input(model))
    if isinstance(topology, str | Path):
        topology = inputs.load_topology(str(topology))
    elif not isinstance(topology, tuple):
        topology = (topology, inputs.topology_input(topology))
    return model[0], topology[0], (model[1], topology[1])


def _checked(record: Asked) -> Asked:
    """What was asked with every field of its type, which making the record does not check; NumPy's numbers become
    Python's. Raises InputError naming the field."""
    import msgspec

    kind = type(record).__name__
    if not isinstance(record, msgspec.Struct):
        raise InputError(f"a job must be a record such as planner.TrainingJob(gbs=64) but got {kind} {record!r:.80}")
    try:
        plain = msgspec.to_builtins(record, enc_hook=_number)
        return msgspec.convert(plain, type(record))
    except msgspec.ValidationError as error:
        raise InputError(f"{kind}: {inputs.with_choices(str(error))}") from error
    except TypeError as error:
        raise InputError(f"{kind}: a field has a value of no known type ({error})") from error


def _number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r:.80}")

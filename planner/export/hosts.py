"""From a plan's rank → device map to hosts in the order in which a launcher numbers ranks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..errors import InputError
from ..plan.training import TrainingPlan
from ..strategy import Strategy
from ..workload.training import TrainingJob
from .base import Context

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_VISIBLE = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}


# What a strategy may ask for beyond degrees, with the value that asks for nothing.
_TECHNIQUES = {
    "weight_shard": None,
    "gradient_shard": None,
    "offload_optimizer": "none",
    "offload_activations": "none",
    "tp_overlap": False,
    "ep_overlap": "none",
    "sync_period": 1,
    "vocab_parallel": False,
    "stage_recompute": None,
}
_ADVICE = {"stage_recompute": "with --recompute none layers alone are fitted"}

# What a job may keep otherwise than a launcher does unless told, with what it does.
_KEPT = {"trained": "all", "master_weight_bytes": 4, "moment_bytes": 8, "gradient_bytes": 4}


@dataclass(frozen=True)
class Host:
    """One host: its place in the launch order and, for each of its ranks in order, the device of the host."""

    name: str
    node: int
    first_rank: int
    devices: tuple[int, ...]

    @property
    def ranks(self) -> tuple[int, int]:
        """First and last rank."""
        return self.first_rank, self.first_rank + len(self.devices) - 1


def training_plan(context: Context) -> TrainingPlan:
    """The plan of a context that an exporter of training plans was given."""
    assert isinstance(context.plan, TrainingPlan)
    return context.plan


def refuse_techniques(strategy: Strategy, launcher: str) -> None:
    """Raises InputError for a technique beyond the degrees, which no exporter here writes yet."""
    for name, nothing in _TECHNIQUES.items():
        value = getattr(strategy, name, nothing)
        if value != nothing:
            advice = _ADVICE.get(name, f"leave {name} unset")
            shown = f"{sum(value)} layers" if isinstance(value, tuple) else value
            raise InputError(f"export: {launcher} is given no {name}, but this plan has {shown}; {advice}")


def unusual(job: TrainingJob) -> dict[str, object]:
    """What the job trains and keeps otherwise than usual, by name; fp32 has no bytes to choose but the moments'."""
    fixed = ("master_weight_bytes", "gradient_bytes") if job.precision == "fp32" else ()
    found = {name: getattr(job, name) for name in _KEPT if name not in fixed}
    return {name: value for name, value in found.items() if value != _KEPT[name]}


def refuse_unusual(job: TrainingJob, launcher: str, expressed: tuple[str, ...] = ()) -> None:
    """Raises InputError for adapters or bytes of states other than the usual, but for those that are expressed."""
    for name, value in unusual(job).items():
        if name not in expressed:
            raise InputError(f"export: {launcher} cannot express {name} {value}; plan with {name} {_KEPT[name]}")


def program_notes(context: Context) -> tuple[str, ...]:
    """What a launcher that only starts ranks leaves to the program: adapters and bytes of states unlike the usual."""
    return tuple(
        f"{name} {value} is the program's to follow (job in plan.json)"
        for name, value in unusual(training_plan(context).job).items()
    )


def places(context: Context) -> list[tuple[int, int]]:
    """For every rank, its node and the device's number on that node."""
    topology = context.topology
    assert topology is not None
    nodes = topology.device_node
    starts = np.searchsorted(nodes, np.arange(topology.n_nodes))
    return [(int(nodes[d]), int(d - starts[nodes[d]])) for d in training_plan(context).rank_to_device]


def hosts(context: Context, launcher: str, order: tuple[int, ...] | None = None) -> tuple[Host, ...]:
    """Hosts in rank order, each with as many ranks as any other.

    `order` gives the plan's rank behind each of the launcher's ranks where the launcher numbers them differently.
    Raises InputError when a node's ranks are not consecutive or nodes have different numbers of ranks: a launcher
    that numbers ranks node by node cannot run such a plan.
    """
    topology = context.topology
    assert topology is not None
    where = places(context)
    if order is not None:
        where = [where[rank] for rank in order]
    found: list[Host] = []
    rank = 0
    for node, run in groupby(where, key=lambda place: place[0]):
        devices = tuple(device for _, device in run)
        found.append(Host(topology.node_names[node], node, rank, devices))
        rank += len(devices)
    if len({host.node for host in found}) != len(found):
        raise InputError(
            f"export: {launcher} numbers ranks node by node, but this plan gives a node scattered ranks; use slurm"
        )
    if len({len(host.devices) for host in found}) != 1:
        raise InputError(f"export: {launcher} starts equally many ranks on every node, but this plan does not")
    return tuple(found)


def pipeline_before_data(strategy: Strategy) -> tuple[int, ...]:
    """The plan's rank behind each rank of Megatron-LM's other order, tp-cp-ep-pp-dp."""
    grid = np.arange(strategy.world_size).reshape(strategy.pp, strategy.dp, strategy.cp * strategy.tp)
    return tuple(int(rank) for rank in grid.transpose(1, 0, 2).ravel())


def plain_name(name: str, launcher: str) -> str:
    """A host's name where a file of one name a line must hold it. Raises InputError when it cannot."""
    if not _PLAIN.match(name):
        raise InputError(f"export: {launcher} cannot write the host name {name!r}: letters, digits, '.', '_', '-'")
    return name


def visible_devices(context: Context, devices: tuple[int, ...]) -> tuple[str, str]:
    """The variable and value that make a process see these devices of its host, in this order.

    Raises InputError for a vendor without such a variable.
    """
    topology = context.topology
    assert topology is not None
    return visible_variable(topology.accelerators[0].vendor), ",".join(map(str, devices))


def visible_variable(vendor: str) -> str:
    """The environment variable that chooses and orders a vendor's devices. Raises InputError when there is none."""
    variable = _VISIBLE.get(vendor.lower())
    if variable is None:
        raise InputError(f"export: devices of {vendor} cannot be ordered by an environment variable")
    return variable


def accelerator_family(context: Context) -> str:
    """What clouds call the accelerator: the first part of its name, `H100` of `H100-SXM5-80GB`."""
    topology = context.topology
    assert topology is not None
    return topology.accelerators[0].name.partition("-")[0]

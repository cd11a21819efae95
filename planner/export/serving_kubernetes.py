"""What serving exporters for Kubernetes share: pods of a pool, words that stay data, and where they may run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..plan.serving import PoolPlan, ServingPlan
from .base import Context
from .folder import object_name
from .serving_workers import Order, pool_names, serving_plan, stage_order, workers

RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
ACCELERATOR_LABEL = "shardwright.dev/accelerator"
PORT = 8000
SECRET = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "HF_TOKEN", "optional": True}}}
POD_IP = {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
NOTES = (
    "Kubernetes chooses the nodes and the devices of every pod: the plan's own are in plan.json",
    "the secret hf-token with the key HF_TOKEN, where the weights need one",
)


@dataclass(frozen=True)
class Pods:
    """A pool as pods: `nodes` of them a worker, `devices` of `resource` each; `select` are labels of fit nodes."""

    name: str
    pool: PoolPlan
    nodes: int
    devices: int
    resource: str
    select: dict[str, str]

    @property
    def resources(self) -> dict[str, Any]:
        """The pod's claim."""
        return {"limits": {self.resource: str(self.devices)}}


def pods(context: Context, launcher: str, order: Order = stage_order) -> tuple[Pods, ...]:
    """The pods of every pool.

    Raises InputError for an order of devices within a node, which Kubernetes cannot give, and for workers of one pool
    that stand on different numbers of nodes.
    """
    plan, topology = serving_plan(context), context.topology
    assert topology is not None
    found = workers(context, launcher, order)
    made = []
    for name, pool in zip(pool_names(plan), plan.pools, strict=True):
        mine = [worker for worker in found if worker.pool_name == name]
        shapes = {(len(worker.parts), len(worker.parts[0].devices)) for worker in mine}
        if len(shapes) != 1:
            raise InputError(f"export: {launcher} makes equal pods but the workers of pool {name} are spread unequally")
        for worker in mine:
            for part in worker.parts:
                if list(part.devices) != sorted(part.devices):
                    raise InputError(
                        f"export: {launcher} cannot order the devices it is given, but {worker.name} uses them as "
                        f"{', '.join(map(str, part.devices))}; export it to its engine alone"
                    )
        index = int(topology.device_accelerator[pool.devices[0][0]])
        vendor = topology.accelerators[index].vendor
        if vendor.lower() not in RESOURCES:
            raise InputError(f"export: {launcher} has no device resource for {vendor} here")
        nodes, devices = shapes.pop()
        several = len(np.unique(topology.device_accelerator)) > 1
        select = {ACCELERATOR_LABEL: label_value(pool.accelerator)} if several else {}
        made.append(Pods(name, pool, nodes, devices, RESOURCES[vendor.lower()], select))
    return tuple(made)


def deployment_name(plan: ServingPlan) -> str:
    """What the deployment's objects are called; a service's name starts with a letter."""
    name = object_name(plan.model)
    return name if name[0].isalpha() else f"m-{name}"


def label_value(text: str) -> str:
    """A label value made of what a text has of letters, digits, '.', '_' and '-'."""
    return "".join(sign if (sign.isalnum() and sign.isascii()) or sign in "._-" else "-" for sign in text)[:63].strip(
        "._-"
    )


def data(words: list[str]) -> list[str]:
    """Words of a command or argument list in which Kubernetes expands nothing."""
    return [word.replace("$", "$$") for word in words]


def variables(environment: dict[str, str]) -> list[dict[str, Any]]:
    """Environment variables whose values Kubernetes does not expand."""
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in environment.items()]


def label_steps(found: tuple[Pods, ...]) -> list[str]:
    """The step that labels nodes, where pools need different accelerators."""
    names = sorted({value for each in found for value in each.select.values()})
    return [f"Label the nodes of each accelerator: `kubectl label node NODE {ACCELERATOR_LABEL}=VALUE`, VALUE being "
            f"{' or '.join(names)}."] if names else []  # fmt: skip

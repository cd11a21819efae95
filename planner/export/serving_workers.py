"""From a serving plan's pools to workers on hosts: which devices each starts with, in which order, on which ports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..errors import InputError
from ..plan.serving import PoolPlan, ServingPlan
from ..workload.serving_layout import Layout
from .base import Context
from .hosts import visible_variable

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - clients and routers reach the servers from other hosts
ROUTER_PORT = 8000
HTTP_PORT = 8100
# Spacing of the ports of one host's workers: an engine opens a few beside the one it is told.
PORT_STEP = 100

Order = Callable[[Layout], tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """A worker's share of one host: devices of that host, in the order in which the engine numbers its ranks."""

    host: str
    node: int
    devices: tuple[int, ...]


@dataclass(frozen=True)
class Worker:
    """One copy of the model. No two workers with a part on the same host have the same `slot`, so that ports differ."""

    name: str
    pool: PoolPlan
    pool_name: str
    parts: tuple[Part, ...]
    slot: int

    @property
    def http_port(self) -> int:
        """Where it serves, on its first host."""
        return HTTP_PORT + self.slot

    def port(self, base: int) -> int:
        """One of its own ports, away from those of the host's other workers."""
        return base + PORT_STEP * self.slot


def serving_plan(context: Context) -> ServingPlan:
    """The plan of a context that an exporter of serving plans was given."""
    assert isinstance(context.plan, ServingPlan)
    return context.plan


def refuse(plan: ServingPlan, launcher: str, engines: tuple[str, ...]) -> None:
    """Raises InputError for an engine or a mode that the launcher does not run."""
    if plan.engine not in engines:
        raise InputError(
            f"export: {launcher} runs {' or '.join(engines)} but this plan was made for {plan.engine}; "
            f"plan again with --engine {engines[0]}"
        )
    if plan.mode in ("shared", "afd", "mixed"):
        why = {
            "shared": "phases that share their devices",
            "afd": "attention apart from feed-forward",
            "mixed": "whole and split workers behind one router",
        }[plan.mode]
        raise InputError(f"export: {launcher} has no {why}; plan with --mode aggregated or disaggregated")
    for pool in plan.pools:
        if pool.layout.cp > 1:
            raise InputError(f"export: {launcher} is given no cp here, but this plan has {pool.layout.cp}; hold --cp 1")


def pool_names(plan: ServingPlan) -> tuple[str, ...]:
    """A name for every pool: its phase, numbered where several pools share it."""
    count = Counter(pool.phase for pool in plan.pools)
    seen: Counter[str] = Counter()
    names = []
    for pool in plan.pools:
        names.append(pool.phase if count[pool.phase] == 1 else f"{pool.phase}-{seen[pool.phase]}")
        seen[pool.phase] += 1
    return tuple(names)


def stage_order(layout: Layout) -> tuple[int, ...]:
    """The plan's own order: stage by stage, tp fastest, then attn_dp."""
    return tuple(range(layout.devices))


def replica_order(layout: Layout) -> tuple[int, ...]:
    """The order of engines that start one process group an attention group: attn_dp slowest, then pp, tp fastest."""
    grid = np.arange(layout.devices).reshape(layout.pp, layout.attn_dp, layout.tp)
    return tuple(int(place) for place in grid.transpose(1, 0, 2).ravel())


def workers(context: Context, launcher: str, order: Order = stage_order) -> tuple[Worker, ...]:
    """All workers of the plan, pool by pool, with the devices of each host in the engine's order.

    Raises InputError when a worker's ranks are scattered over hosts or its hosts hold different numbers of them: an
    engine numbers ranks host by host.
    """
    plan, topology = serving_plan(context), context.topology
    assert topology is not None
    nodes = topology.device_node
    starts = np.searchsorted(nodes, np.arange(topology.n_nodes))
    slots: Counter[int] = Counter()
    found = []
    for pool, name in zip(plan.pools, pool_names(plan), strict=True):
        for number, devices in enumerate(pool.devices):
            ranked = [devices[place] for place in order(pool.layout)]
            parts = tuple(
                Part(topology.node_names[node], node, tuple(int(device - starts[node]) for device in run))
                for node, run in groupby(ranked, key=lambda device: int(nodes[device]))
            )
            worker = f"{name}-{number}"
            if len({part.node for part in parts}) != len(parts) or len({len(part.devices) for part in parts}) != 1:
                spread = pool.layout.pp > 1 and pool.layout.attn_dp > 1
                raise InputError(
                    f"export: {launcher} numbers ranks host by host, equally many on each, but the devices of "
                    f"{worker} are not so placed; hold {'--pp or --attn-dp to 1' if spread else '--tp or --pp lower'}"
                )
            slot = max(slots[part.node] for part in parts)
            found.append(Worker(worker, pool, name, parts, slot))
            slots.update({part.node: slot + 1 - slots[part.node] for part in parts})
    return tuple(found)


def see_devices(context: Context, part: Part) -> tuple[str, str]:
    """The variable and value that make a worker's processes see their devices of a host, in order."""
    topology = context.topology
    assert topology is not None
    device = int(np.searchsorted(topology.device_node, part.node))
    vendor = topology.accelerators[int(topology.device_accelerator[device])].vendor
    return visible_variable(vendor), ",".join(map(str, part.devices))


def split_pools(plan: ServingPlan) -> bool:
    """Whether prompts and output tokens are computed by different workers."""
    return any(pool.phase != "aggregated" for pool in plan.pools)

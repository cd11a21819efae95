"""Where replicas of one GPU type run, and no replica of its size can be faster than."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import msgspec
import numpy as np

from shardwright import topologies
from shardwright.models import ModelGraph
from shardwright.solvers.binpacking.problem import Floats
from shardwright.topologies import Topology

from ..costs.serving.coefficients import Engine, engine, host_factor, kernels
from ..costs.serving.communication import fabric
from ..costs.serving.formulas import TOKEN_GRID, StepCost
from ..costs.serving.memory import replica_memory
from ..costs.serving.shapes import replica_shapes
from ..costs.serving.step import Machine, step_cost
from ..errors import input_errors
from ..plan.fleet import RequestClass
from ..workload.clocks import at_clock
from ..workload.fleet import ServedModel
from ..workload.serving_layout import Layout, quantization

BOX_DEVICES = 8
NODES = 2
MOST_HELD = 65536
HELD_POINTS = 64
SLACK = 1.02
"""Room for the grid of requests in hand: rates between two of its points are at most this much higher."""


@functools.cache
def machine_topology(gpu: str) -> tuple[Topology, str]:
    """Two nodes of the catalog's first cluster with that GPU, or a box of eight; and what was assumed.

    A lower clock (`GPU@0.8`) lowers the rates of products alone: memory, links and hosts have clocks of their own.
    Raises InputError where the catalog does not know the GPU.
    """
    name, clock = at_clock(gpu)
    if clock < 1:
        full, note = machine_topology(name)
        (device,) = full.accelerators
        slower = {
            field: {dtype: rate * clock for dtype, rate in getattr(device, field).items()}
            for field in ("peak_flops", "matmul_flops")
        }
        own = msgspec.to_builtins(msgspec.structs.replace(device, source={}, **slower))
        return topologies.parse_topology(full.document | {"accelerators": [own]}), note
    with input_errors():
        device = topologies.accelerator(gpu)
        for name in topologies.list_clusters():
            entry = topologies.cluster_entry(name)
            if entry.node.get("accelerator") == device.name and not entry.torus_rank:
                count = NODES if entry.unit_nodes == 1 else 1
                return topologies.cluster(f"{name}:{count}"), f"replicas on {device.name} run on nodes like {name}"
        document = {
            "schema": "shardwright.topology/1",
            "name": f"box-of-{device.name}",
            "nodes": [
                {
                    "name": "box",
                    "count": 1,
                    "accelerator": device.name,
                    "devices": BOX_DEVICES,
                    "fabric": {
                        "kind": "switch",
                        "bandwidth_bytes_per_s": device.scaleup_bytes_per_s,
                        "latency_s": 1e-6,
                    },
                }
            ],
        }
        note = f"{device.name} come in boxes of {BOX_DEVICES} joined at the rate of their {device.scaleup_link} links"
        return topologies.parse_topology(document), note


@dataclass(frozen=True, slots=True)
class Ideal:
    """A model on devices that divide its work evenly and talk for free: what no layout can beat.

    Every layout on g devices reads the weights and caches at least once over them all and computes every product, so g
    times the time of its steps is at least that of one device that needs not to hold the model. Prompts may hide behind
    the reading of weights, so products count by what is larger: the decode steps alone, or all tokens at full batches.
    """

    cost: StepCost
    engine: Engine
    weight_bytes: float
    token_bytes: dict[tuple[int, int], float]
    usable_bytes: float

    def rates(self, classes: tuple[RequestClass, ...], served: ServedModel, devices: int) -> Floats:
        """More requests per second than any replica of so many devices carries of each class within the targets."""
        room = devices * self.usable_bytes - self.weight_bytes
        if room <= 0:
            return np.zeros(len(classes))
        sizes = [(each.isl or 1, each.osl or 1) for each in classes]
        isl, osl = (np.array(each, dtype=float)[:, None] for each in zip(*sizes, strict=True))
        context = isl + osl / 2
        cached = np.array([[self.token_bytes[size]] for size in sizes]) * context
        held = np.where(cached > 0, room / np.maximum(cached, 1e-300), MOST_HELD)
        held = np.clip(np.minimum(self.engine.max_sequences * devices, held), 1.0, MOST_HELD)
        grid = np.append(np.rint(np.geomspace(1, held[:, 0], HELD_POINTS, axis=-1)), held, axis=1)
        read = self.cost.read_seconds(grid, context) / devices
        products = self.cost.tables(grid, grid, grid) / devices
        step = products + read + self.cost.step_s
        token = float((self.cost.tables(TOKEN_GRID[1:], TOKEN_GRID[1:], 0.0) / TOKEN_GRID[1:]).min()) / devices
        pairs = self.cost.pair_seconds(isl, isl * isl / 2) / devices
        targets, steps = served.targets, np.maximum(osl - 1, 0)
        within = (step <= (targets.tpot_s or np.inf)) | (osl <= 1)
        within &= isl * token + pairs <= (targets.ttft_s or np.inf)
        computed = np.maximum(steps * products, grid * (isl + steps) * token)
        rates = np.where(within, grid / (computed + steps * (read + self.cost.step_s) + grid * pairs), 0.0)
        most: Floats = SLACK * rates.max(1)
        return most


def ideal(model: ModelGraph, gpu: str, format_: str, served: ServedModel) -> Ideal:
    """The ideal machine of a GPU type for a model in a number format."""
    topology, _ = machine_topology(gpu)
    on, known = fabric(topology), engine(served.engine)[0]
    device = on.accelerator
    figures = kernels(device.architecture, device.name)[0]
    numbers = quantization(format_)
    shapes = replica_shapes(model, Layout(), numbers)
    cost = step_cost(model, Machine(on, figures, known, host_factor(device.name)), Layout(), numbers)
    memory = {
        (each.isl, each.osl): replica_memory(model, shapes, on, Layout(), (numbers, known, each.isl + each.osl / 2))
        for each in served.lengths
    }
    return Ideal(
        cost=cost,
        engine=known,
        weight_bytes=shapes.weight_bytes,
        token_bytes={size: each.token_bytes for size, each in memory.items()},
        usable_bytes=next(iter(memory.values())).usable_bytes - known.context_bytes,
    )

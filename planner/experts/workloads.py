"""The routing of one or several workloads, made to fit each other, with tokens held out to judge by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shardwright import models
from shardwright.models import Routing

from ..errors import InputError, input_errors
from ..files import sha256_of_file
from ..plan.base import Input
from ..plan.experts import Reading

WHOLE = Reading()


@dataclass(frozen=True, slots=True)
class Workloads:
    """Routing to plan with, routing held out, where it came from and what was read of it. All have the same layers and
    experts."""

    routings: tuple[Routing, ...]
    held_out: tuple[Routing, ...]
    sources: tuple[Input, ...]
    reading: Reading = WHOLE

    @property
    def first(self) -> Routing:
        """The first workload, which gives the layers and experts of all."""
        return self.routings[0]


def load_workloads(paths: list[str], array: str | None, top: int | None, held_out: float) -> Workloads:
    """Read every file and hold back the last tokens of every trace. Raises InputError when they do not fit."""
    routings: list[Routing] = []
    sources: list[Input] = []
    for path in paths:
        with input_errors():
            routings += models.read_routing(path, array=array, top=top)
        sources.append(Input(role="routing", source=path, sha256=sha256_of_file(path)))
    reading = Reading(array=array, top=top, held_out=held_out)
    return replace(workloads_of(routings, held_out, tuple(sources)), reading=reading)


def workloads_of(routings: list[Routing], held_out: float = 0.0, sources: tuple[Input, ...] = ()) -> Workloads:
    """Check that workloads have the same layers and experts, and split off the held-out tokens of traces."""
    if not routings:
        raise InputError("routing: at least one workload is needed")
    most = max(routing.experts for routing in routings)
    routings = [_widened(routing, most) for routing in routings]
    first = routings[0]
    for other in routings[1:]:
        if not np.array_equal(other.layers, first.layers) or other.rows != first.rows:
            raise InputError(
                f"{other.name}: has experts in {len(other.layers)} of {other.rows} layers "
                f"but {first.name} in {len(first.layers)} of {first.rows}"
            )
    if held_out == 0:
        return Workloads(tuple(routings), (), sources)
    with input_errors():
        parts = [models.split_tokens(routing, held_out) for routing in routings]
    return Workloads(tuple(part[0] for part in parts), tuple(part[1] for part in parts), sources)


def _widened(routing: Routing, experts: int) -> Routing:
    """A trace in which the last experts never occur has as many experts as the others all the same."""
    if routing.experts == experts:
        return routing
    if routing.top_ids is None:
        raise InputError(f"{routing.name}: has {routing.experts} experts but another workload has {experts}")
    with input_errors():
        wider = models.routing_from_ids(routing.name, routing.top_ids, experts=experts)
    return Routing(
        wider.name, wider.loads, routing.layers, routing.rows, wider.transitions, wider.top_ids, wider.weight
    )

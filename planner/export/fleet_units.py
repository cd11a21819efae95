"""What exporters of rented fleets share: names of what is rented, the engine's words, weights of the routing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..plan.fleet import FleetPlan, Rental, Rented, Replica
from ..workload.clocks import at_clock
from .base import Context
from .folder import object_name
from .serving_model import published_weights

WEIGHT_PARTS = 10_000
ONLINE_FORMATS = {"bf16": [], "fp8": ["--quantization", "fp8"]}
MOST_GPUS = 8


@dataclass(frozen=True)
class Unit:
    """One row of the rental under a name that clouds accept; `copies` of them serve."""

    name: str
    kind: int
    rented: Rented
    replica: Replica
    copies: int

    @property
    def gpu(self) -> str:
        """The GPU type, at whatever clock it runs."""
        return at_clock(self.replica.gpu)[0]

    @property
    def clock_note(self) -> tuple[str, ...]:
        """What is to be done for a lower clock, which launchers have no word for."""
        clock = at_clock(self.replica.gpu)[1]
        if clock == 1:
            return ()
        return (f"the clocks of {self.name}: lock its GPUs at {clock:.0%} of their highest (nvidia-smi -lgc)",)


def rental(context: Context, launcher: str) -> Rental:
    """The rental of a plan. Raises InputError for a plan that rents nothing."""
    assert isinstance(context.plan, FleetPlan)
    if context.plan.rental is None:
        raise InputError(f"export: {launcher} rents machines, but this plan places layers on given ones")
    return context.plan.rental


def steady_rental(context: Context, launcher: str) -> Rental:
    """The rental of a plan that is the same at all hours and whose replicas are whole copies on one GPU type.

    Raises InputError for any other, naming what the launcher has no word for.
    """
    found = rental(context, launcher)
    if found.schedule is not None:
        raise InputError(f"export: {launcher} holds counts, but this plan follows hours; export it to fleet-routing")
    for each in found.replicas:
        if any(pool.phase != "aggregated" for pool in each.pools):
            raise InputError(f"export: {launcher} starts whole copies, but {each.name} splits prefill from decode")
        if each.gpus > MOST_GPUS:
            raise InputError(
                f"export: {launcher} starts copies within one node, but {each.name} takes {each.gpus} GPUs"
            )
        for pool in each.pools:
            if pool.degrees is not None and (pool.degrees.cp > 1 or (pool.degrees.ep > 1 and pool.degrees.moe_tp > 1)):
                raise InputError(f"export: {launcher} starts vLLM, which has no {pool.degrees.label()} layout")
    return found


def units(found: Rental) -> tuple[Unit, ...]:
    """Every row of the rental, names unique and in order."""
    made = []
    for number, rented in enumerate(found.rented):
        replica = found.replicas[rented.replica]
        name = f"{object_name(replica.name, 40)}-{number}"
        made.append(Unit(name, rented.replica, rented, replica, rented.count * rented.copies))
    return tuple(made)


def engine_words(context: Context, replica: Replica, launcher: str, port: int) -> list[str] | None:
    """`vllm serve` and its words for one copy; None where a measured table says nothing of degrees.

    Raises InputError for another engine or a number format that the engine cannot make while loading.
    """
    if not replica.pools or replica.pools[0].degrees is None:
        return None
    if replica.engine not in ("", "vllm"):
        raise InputError(f"export: {launcher} starts vLLM, but {replica.name} was planned for {replica.engine}")
    base, _, cache = replica.format.partition("+")
    if base not in ONLINE_FORMATS:
        raise InputError(f"export: {launcher} knows no checkpoint in {base}; plan with bf16 or fp8")
    degrees = replica.pools[0].degrees
    words = ["vllm", "serve", weights_name(context, replica.model), "--port", str(port)]
    words += ["--tensor-parallel-size", str(degrees.tp), "--pipeline-parallel-size", str(degrees.pp)]
    words += ["--data-parallel-size", str(degrees.attn_dp)] if degrees.attn_dp > 1 else []
    words += ["--enable-expert-parallel"] if degrees.ep > 1 else []
    words += ONLINE_FORMATS[base] + (["--kv-cache-dtype", "fp8"] if cache == "kv8" else [])
    return words


def weights_name(context: Context, model: str) -> str:
    """Where an engine finds the weights of a model. Raises InputError for a name that reads as an option."""
    for record in context.plan.inputs:
        if record.role == "model" and record.source.rpartition(":")[2] == model:
            return published_weights(record.source, model, "vllm").name
    if model.startswith("-") or not model.strip():
        raise InputError(f"export: vllm takes no model named {model!r}: it reads as an option")
    return model


def class_name(number: int) -> str:
    """The value of the header by which requests of a class are known."""
    return f"class-{number}"


def weights_of(found: Rental, class_number: int) -> list[tuple[int, int]]:
    """(row of rented, weight) of a class: its share of the kind, divided over the kind's rows by what they carry."""
    made = []
    for row, rented in enumerate(found.rented):
        mine = [each for each in found.rented if each.replica == rented.replica]
        part = _worth(rented) / sum(_worth(each) for each in mine)
        share = found.routing[rented.replica][class_number] * part
        if share > 0:
            made.append((row, max(1, round(share * WEIGHT_PARTS))))
    return made


def routing_document(found: Rental) -> dict[str, Any]:
    """Everything a load balancer of one's own needs: classes, kinds, counts, shares, losses and hours."""
    named = units(found)
    rows = [
        {
            "name": unit.name, "kind": unit.replica.name, "model": unit.replica.model, "region": unit.rented.region,
            "tier": unit.rented.tier, "copies": unit.copies,
        }
        for unit in named
    ]  # fmt: skip
    classes = [
        {
            "class": class_name(at), "name": each.name, "model": each.model, "isl": each.isl, "osl": each.osl,
            "weights": {named[row].name: weight for row, weight in weights_of(found, at)},
        }
        for at, each in enumerate(found.classes)
    ]  # fmt: skip
    names = [unit.name for unit in named]
    hours = () if found.schedule is None else found.schedule.hours
    return {
        "units": rows,
        "classes": classes,
        "kinds": [replica.name for replica in found.replicas],
        "losses": [
            {
                "name": each.name,
                "lost": dict(zip(names, each.lost, strict=True)),
                "load_share": each.load_share,
                "shares": each.routing,
            }
            for each in found.contingencies
        ],
        "hours": [
            {
                "hour": each.hour,
                "multiple": each.multiple,
                "units": dict(zip(names, each.counts, strict=True)),
                "shares": each.routing,
            }
            for each in hours
        ],
    }


def readable(document: object) -> str:
    """A document as indented JSON."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _worth(rented: Rented) -> float:
    return rented.count * rented.copies * rented.available

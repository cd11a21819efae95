"""A rental against the Mélange configuration that the plan keeps: its prices, throughputs, requests and slices."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ..inputs import JOB
from ..plan.fleet import CARRIED, COST, FleetPlan, Rental
from .common import TOLERANCE, close


class _Type(msgspec.Struct, frozen=True):
    cost: float
    tputs: tuple[tuple[float, ...], ...]


class _Melange(msgspec.Struct, frozen=True):
    gpu_info: dict[str, _Type]
    workload_distribution: tuple[tuple[float, ...], ...]


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    total_request_rate: float
    slice_factor: int | None


def melange_problems(plan: FleetPlan, rental: Rental) -> Iterator[str]:
    """One sentence for everything that is not as the configuration, and the rate and slices asked for, have it."""
    document = next((record.document for record in plan.inputs if record.role == "offers"), None)
    numbers = next((record.document for record in plan.inputs if record.source == JOB), None)
    if document is None or numbers is None:
        yield "inputs: the plan keeps neither a fleet job nor a Mélange configuration to be held to"
        return
    try:
        config, asked = msgspec.convert(document, _Melange), msgspec.convert(numbers, _Asked)
    except msgspec.ValidationError as error:
        yield f"inputs: the configuration kept in the plan is refused: {error}"
        return
    if (plan.optimality.objective, plan.optimality.sense) != (COST, "min"):
        yield f"optimality: a configuration asks for the least {COST}, not {CARRIED}"
    if plan.provenance.seed:
        yield "provenance.seed must be 0"
    if rental.slices != asked.slice_factor:
        yield f"slices is {rental.slices} but {asked.slice_factor} were asked for"
    if rental.carried != 1 or rental.limits or rental.contingencies or rental.schedule or rental.change:
        yield "rental: a configuration has no caps, losses, hours or fleet that runs, and is carried once"
    yield from _rows(rental, config)
    yield from _alone(plan, rental, config)
    yield from _requests(rental, config, asked.total_request_rate)


def _rows(rental: Rental, config: _Melange) -> Iterator[str]:
    shares = [share for row in config.workload_distribution for share in row]
    for replica in rental.replicas:
        known = config.gpu_info.get(replica.gpu)
        table = [] if known is None else [most for row in known.tputs for most in row]
        carried = tuple(most for most, share in zip(table, shares, strict=False) if share > 0)
        if carried != replica.requests_per_s:
            yield f"requests_per_s of {replica.name} are not those of the configuration"
        words = (replica.layout, replica.format, replica.engine, replica.source, replica.pools, replica.usable)
        if (replica.name, replica.gpus) != (replica.gpu, 1) or words != ("", "", "", "", (), 1.0):
            yield f"replica {replica.name} must be one GPU of its type, fully counted on, and nothing else"
    for at, each in enumerate(rental.rented):
        known = config.gpu_info.get(rental.replicas[each.replica].gpu)
        if known is not None and not close(known.cost, each.usd_per_hour):
            yield f"rented[{at}] costs {each.usd_per_hour:.6g} $/h but {known.cost:.6g} by the configuration"
        place = (each.gpus, each.copies, each.region, each.tier, each.available, each.watts)
        if place != (1, 1, "", "on-demand", 1.0, None):
            yield f"rented[{at}]: the configuration knows whole GPUs alone, one each, and no place or power"


def _alone(plan: FleetPlan, rental: Rental, config: _Melange) -> Iterator[str]:
    for each in rental.single_type:
        known = config.gpu_info.get(each.gpu)
        cost = None if known is None or each.gpus is None else known.cost * each.gpus
        if (
            known is None
            or (cost is None) != (each.usd_per_hour is None)
            or each.carried != 1
            or each.watts is not None
        ):
            yield f"single_type {each.gpu} must be of the configuration and carry its rate once"
        elif cost is not None and each.usd_per_hour is not None and not close(cost, each.usd_per_hour):
            yield f"single_type {each.gpu}: {each.gpus} cost {cost:.6g} $/h, not {each.usd_per_hour:.6g}"
        elif cost is not None and cost < plan.optimality.bound * (1 - TOLERANCE):
            yield f"single_type {each.gpu}: costs {cost:.6g} $/h, less than the bound {plan.optimality.bound:.6g}"


def _requests(rental: Rental, config: _Melange, rate: float) -> Iterator[str]:
    expected = [
        (f"input {row}, output {column}", rate * share)
        for row, shares in enumerate(config.workload_distribution)
        for column, share in enumerate(shares)
        if share > 0
    ]
    if len(expected) != len(rental.classes):
        yield f"classes: the configuration has {len(expected)} sizes with requests but the plan {len(rental.classes)}"
        return
    models = {each.model for each in rental.classes} | {each.model for each in rental.replicas}
    if len(models) > 1:
        yield "classes and replicas must be of one model"
    for at, (told, (name, arrive)) in enumerate(zip(rental.classes, expected, strict=True)):
        if (told.name, told.isl, told.osl) != (name, None, None):
            yield f"classes[{at}] must be the configuration's {name}"
        if not close(told.rate_per_s, arrive):
            yield f"classes[{at}].rate_per_s is {told.rate_per_s:.6g} but {arrive:.6g} by the configuration"

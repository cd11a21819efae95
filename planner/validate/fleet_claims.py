"""What a rental claims of other fleets and of one more of something, as far as the plan itself can tell."""

from __future__ import annotations

from collections.abc import Iterator

from ..plan.fleet import DRAWN, FleetPlan, Rental
from .common import TOLERANCE, close

DUAL, ANEW, CLOSED = (
    "dual of the relaxation",
    "plan made anew",
    "relaxation of the replicas rented, by the cost model",
)
REQUEST = "1 request/s more of the same mix"
STEPS = {"W": 1000.0}
UNPROVEN = 1e-3
"""Plans made anew are proven to a ten-thousandth of their value, so that a gain may look like a loss of that size."""


def claim_problems(plan: FleetPlan, rental: Rental) -> Iterator[str]:
    """One sentence for every claim that contradicts the plan."""
    if plan.optimality.candidates or plan.optimality.feasible:
        yield "optimality: a fleet counts its work, and neither candidates nor feasible"
    for each in rental.single_type:
        if (each.usd_per_hour is None) != (each.gpus is None) or (each.usd_per_hour is None) != bool(each.why):
            yield f"single_type {each.gpu} must have a cost and GPUs, or say why there is none"
        if each.usd_per_hour is None and (each.carried != 1 or each.watts is not None):
            yield f"single_type {each.gpu} carries nothing, and carried and watts must be left at 1 and null"
    yield from _alternatives(plan, rental)
    yield from _worths(plan, rental)


def _alternatives(plan: FleetPlan, rental: Rental) -> Iterator[str]:
    """The fleets of one type stand among the alternatives, best first, and what-ifs behind them."""
    most, energy = plan.optimality.sense == "max", plan.optimality.objective == DRAWN
    mix = (rental.watts or 0.0) / 1e3 if energy else rental.usd_per_hour
    able = []
    for each in rental.single_type:
        if each.usd_per_hour is None:
            continue
        cost = (each.watts or 0.0) / 1e3 if energy else each.usd_per_hour
        why = f"{each.gpus} GPUs, {round(cost - mix, 9) + 0.0:.4g} {'kW' if energy else '$/h'} more"
        if most:
            why = f"{each.gpus} GPUs carry {each.carried:.4g} times the rates"
        able.append((-each.carried if most else cost, each.gpu, why))
    able.sort()
    told = [each for each in plan.alternatives if not each.label.startswith("what if ")]
    if [each.label for each in told] != [f"{gpu} only" for _, gpu, _ in able]:
        yield "alternatives must name the fleets of one GPU type, best first"
        return
    for other, (value, _, why) in zip(told, able, strict=True):
        if not close(other.value, abs(value)) or other.why != why:
            yield f"alternatives: {other.label} must be {abs(value):.6g} for {why}"


def _worths(plan: FleetPlan, rental: Rental) -> Iterator[str]:
    """Shadow prices are of the plan's own limits and requests, in its unit, and of the right sign."""
    most = plan.optimality.sense == "max"
    unit = "requests/s" if most else "kW" if plan.optimality.objective == DRAWN else "$/h"
    duals = {}
    for limit in rental.limits:
        step = STEPS.get(limit.unit, 1.0)
        more = f"{step:g} more of {limit.name} ({limit.unit})"
        each = limit.usd_per_hour_each
        duals[more if limit.most >= 0 else f"1 fewer of {limit.name}"] = None if each is None else step * each
        if each is not None and (each < -TOLERANCE or _resolved(plan, rental)):
            yield f"limits: {limit.name} has a dual of {each:.6g} where there is none, or it is below 0"
    slack = UNPROVEN * abs(plan.optimality.value) * (sum(each.rate_per_s for each in rental.classes) if most else 1.0)
    for told in rental.shadow_prices:
        known = told.what in (*duals, REQUEST) or (told.how == CLOSED and told.what.startswith("1 ms more of "))
        if not known or told.how not in (DUAL, ANEW, CLOSED) or told.unit not in (unit, "$/h"):
            yield f"shadow_prices: nothing in the plan is {told.what!r} ({told.unit}, {told.how})"
        elif (told.worth > slack) if told.what == REQUEST else (told.worth < -slack):
            yield f"shadow_prices: {told.what} is worth {told.worth:.6g}, of the wrong sign"
        elif told.how == DUAL and told.what != REQUEST and not close(told.worth, duals[told.what] or 0.0):
            yield f"shadow_prices: the dual of {told.what} is {duals[told.what]} by the limits, not {told.worth:.6g}"


def _resolved(plan: FleetPlan, rental: Rental) -> bool:
    """Whether the program was one without duals."""
    changes = rental.contingencies or rental.change is not None
    return bool(changes or rental.schedule is not None or plan.optimality.sense == "max")

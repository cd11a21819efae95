"""What one more unit of everything that binds is worth: duals of the relaxation, and plans made anew."""

from __future__ import annotations

from dataclasses import replace

from shardwright.solvers.binpacking.covering import demand

from ..errors import Infeasible, LimitReached
from ..plan.fleet import ShadowPrice
from .covering import Demands
from .found import Found
from .problem import Cap, FleetProblem
from .program import formulate
from .solving import solve_fleet

STEPS = {"W": 1000.0, "$/h": 1.0}
MOST_RESOLVED = 8
DUAL = "dual of the relaxation"
ANEW = "plan made anew"


def shadow_prices(problem: FleetProblem, found: Found, demands: Demands, seed: int = 0) -> tuple[ShadowPrice, ...]:
    """The worth of one more unit of every cap that the plan fills, and of one more request per second.

    In dollars per hour saved; under a budget, in requests per second won.
    """
    one_hour = replace(demands, hours=(max(demands.hours),), before=None)
    base = found if demands.before is None and len(demands.hours) == 1 else _solved(problem, one_hour, seed)
    if base is None:
        return ()
    out: list[ShadowPrice] = []
    total = float(problem.rates.sum())
    unit = "requests/s" if demands.largest else unit_of(problem)
    for at, cap in _filled(problem, base)[:MOST_RESOLVED]:
        step = STEPS.get(cap.unit, 1.0)
        what = f"{step:g} more of {cap.name} ({cap.unit})" if cap.most >= 0 else f"1 fewer of {cap.name}"
        if base.cap_prices is not None and not demands.largest:
            out.append(ShadowPrice(what=what, unit=unit, worth=step * float(base.cap_prices[at]), how=DUAL))
        freer = _solved(problem.with_cap(at, cap.most + step), one_hour, seed)
        if freer is not None:
            worth = (freer.value - base.value) * total if demands.largest else base.value - freer.value
            out.append(ShadowPrice(what=what, unit=unit, worth=worth, how=ANEW))
    if not demands.largest:
        out += _one_request_more(problem, base, one_hour, seed)
    return tuple(out)


def unit_of(problem: FleetProblem) -> str:
    """What the objective counts."""
    return "kW" if problem.energy else "$/h"


def _one_request_more(problem: FleetProblem, base: Found, demands: Demands, seed: int) -> list[ShadowPrice]:
    what, total = "1 request/s more of the same mix", float(problem.rates.sum())
    if base.prices is not None:
        packing = formulate(problem)
        worth = demand(packing.load, packing.items, base.prices) / total
        return [ShadowPrice(what=what, unit=unit_of(problem), worth=-worth, how=DUAL)]
    more = _solved(problem.scaled(1 + 1 / (total * max(demands.hours))), demands, seed)
    return (
        [] if more is None else [ShadowPrice(what=what, unit=unit_of(problem), worth=base.value - more.value, how=ANEW)]
    )


def _filled(problem: FleetProblem, found: Found) -> list[tuple[int, Cap]]:
    """The caps that leave no room for one more unit of something they count."""
    out = []
    for at, cap in enumerate(problem.caps):
        used = float((found.counts @ cap.row).max())
        least = min((abs(float(size)) for size in cap.row if size), default=0.0)
        if least and cap.most - used < least - 1e-9:
            out.append((at, cap))
    return out


def _solved(problem: FleetProblem, demands: Demands, seed: int) -> Found | None:
    try:
        return solve_fleet(problem, demands, seed)
    except (Infeasible, LimitReached):
        return None

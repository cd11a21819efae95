"""Which fleet the command line asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..plan.fleet import FleetPlan


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """What the command line says, option by option."""

    melange: str | None = None
    rate: float | None = None
    slices: int | None = None
    fractional: bool = False


def fleet_plan(options: FleetOptions) -> FleetPlan:
    """The plan of the mode that the options choose. Raises InputError when they choose none."""
    if options.melange is not None:
        return _melange(options)
    raise InputError("give --melange CONFIG.json: there is nothing to plan")


def _melange(options: FleetOptions) -> FleetPlan:
    from ..fleet.melange import read_melange
    from ..fleet.planning import plan_problem

    assert options.melange is not None
    if options.fractional and options.slices is not None:
        raise InputError("--fractional has no slices: leave --slices out")
    problem, source = read_melange(options.melange, options.rate, options.slices, fractional=options.fractional)
    return plan_problem(problem, (source,))

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
    helix: str | None = None
    max_stages: int | None = None
    latency: str | None = None
    batch: int | None = None
    hop: str | None = None


def fleet_plan(options: FleetOptions) -> FleetPlan:
    """The plan of the mode that the options choose. Raises InputError when they choose none."""
    if options.melange is not None and options.helix is not None:
        raise InputError("give --melange or --helix, not both")
    if options.melange is not None:
        return _melange(options)
    if options.helix is not None:
        return _helix(options)
    raise InputError("give --melange CONFIG.json or --helix CASE.json: there is nothing to plan")


def _melange(options: FleetOptions) -> FleetPlan:
    from ..fleet.melange import read_melange
    from ..fleet.planning import plan_problem

    assert options.melange is not None
    if options.fractional and options.slices is not None:
        raise InputError("--fractional has no slices: leave --slices out")
    problem, source = read_melange(options.melange, options.rate, options.slices, fractional=options.fractional)
    return plan_problem(problem, (source,))


def _helix(options: FleetOptions) -> FleetPlan:
    from ..fleet.layer_case import read_helix
    from ..fleet.layer_planning import LayerRequest, plan_layers
    from .common import parse_duration

    assert options.helix is not None
    defaults = LayerRequest()
    request = LayerRequest(
        max_stages=options.max_stages,
        latency_s=None if options.latency is None else parse_duration(options.latency),
        batch=defaults.batch if options.batch is None else options.batch,
        hop_s=defaults.hop_s if options.hop is None else parse_duration(options.hop),
    )
    return plan_layers(read_helix(options.helix), request)

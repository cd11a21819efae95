"""`shardwright fleet`: which GPUs to rent, how many, and which requests go where."""

from __future__ import annotations

from typing import Annotated

import typer

from . import training_options as shared

_Melange = Annotated[str | None, typer.Option(help="Mélange's configuration file.", rich_help_panel="What to plan")]


def fleet(
    melange: _Melange = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second.")] = None,
    slices: Annotated[int | None, typer.Option(help="Parts of every request class (Mélange's slice factor).")] = None,
    fractional: Annotated[bool, typer.Option(help="Let any share of a request class go anywhere.")] = False,
    output: shared.Output = None,
    json: shared.Json = False,
) -> None:
    """Find the cheapest fleet of GPUs for a load, and where its requests go."""
    import time

    started = time.perf_counter()
    from ..report.fleet import print_fleet_plan
    from .common import emit
    from .fleet_options import FleetOptions, fleet_plan

    plan = fleet_plan(FleetOptions(melange=melange, rate=rate, slices=slices, fractional=fractional))
    emit(plan, json=json, output=output, view=lambda: print_fleet_plan(plan, time.perf_counter() - started))

"""`shardwright fleet`: which GPUs to rent, how many, and which requests go where."""

from __future__ import annotations

from typing import Annotated

import typer

from . import training_options as shared

_CAP = {"rich_help_panel": "Layers on a given cluster", "show_default": False}
_Helix = Annotated[
    str | None,
    typer.Option(help="Cluster of unequal nodes (Helix): who holds which layers.", rich_help_panel="What to plan"),
]
_Stages = Annotated[int | None, typer.Option(help="Cap of the second placement: nodes that a token visits.", **_CAP)]
_Latency = Annotated[str | None, typer.Option(help="Cap of the second placement: time of a token, as 500ms.", **_CAP)]
_Batch = Annotated[
    int | None, typer.Option(help="Tokens that a node takes at once, for latency (default: 32).", **_CAP)
]
_Hop = Annotated[str | None, typer.Option(help="Latency of a link (default: 1ms).", **_CAP)]
_Melange = Annotated[str | None, typer.Option(help="Mélange's configuration file.", rich_help_panel="What to plan")]


def fleet(
    melange: _Melange = None,
    helix: _Helix = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second.")] = None,
    slices: Annotated[int | None, typer.Option(help="Parts of every request class (Mélange's slice factor).")] = None,
    fractional: Annotated[bool, typer.Option(help="Let any share of a request class go anywhere.")] = False,
    max_stages: _Stages = None,
    latency: _Latency = None,
    batch: _Batch = None,
    hop: _Hop = None,
    output: shared.Output = None,
    json: shared.Json = False,
) -> None:
    """Find the cheapest fleet of GPUs for a load, and where its requests go."""
    import time

    started = time.perf_counter()
    from ..report.fleet import print_fleet_plan
    from .common import emit
    from .fleet_options import FleetOptions, fleet_plan

    options = FleetOptions(
        melange=melange,
        rate=rate,
        slices=slices,
        fractional=fractional,
        helix=helix,
        max_stages=max_stages,
        latency=latency,
        batch=batch,
        hop=hop,
    )
    plan = fleet_plan(options)
    emit(plan, json=json, output=output, view=lambda: print_fleet_plan(plan, time.perf_counter() - started))

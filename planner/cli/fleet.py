"""`shardwright fleet`: which GPUs to rent, how many, in which layout, and which requests go where."""

from __future__ import annotations

from typing import Annotated

import typer

from . import training_options as shared

_LOAD, _WITHSTAND, _CHANGE = "Load", "What it must withstand", "Change"
_Model = Annotated[str | None, typer.Argument(help="Catalog name, config.json, or a directory with one.")]
_Offers = Annotated[str | None, typer.Option(help="Fleet job (YAML or JSON): offers, quotas, tables, models, …")]
_Gpus = Annotated[str | None, typer.Option(help="GPU types at catalog prices, such as a10g,a100-80gb.")]
_CAP = {"rich_help_panel": "Layers on a given cluster", "show_default": False}
_Helix = Annotated[str | None, typer.Option(help="Cluster of unequal nodes (Helix): who holds which layers.")]
_Cluster = Annotated[str | None, typer.Option(help="Catalog name, or a topology file, for --place.", **_CAP)]
_Place = Annotated[bool, typer.Option(help="Place the layers on the nodes of --cluster.", **_CAP)]
_Stages = Annotated[int | None, typer.Option(help="Cap of the second placement: nodes that a token visits.", **_CAP)]
_Latency = Annotated[str | None, typer.Option(help="Cap of the second placement: time of a token, as 500ms.", **_CAP)]
_Batch = Annotated[
    int | None, typer.Option(help="Tokens that a node takes at once, for latency (default: 32).", **_CAP)
]
_Hop = Annotated[str | None, typer.Option(help="Latency of a link (default: 1ms).", **_CAP)]
_Melange = Annotated[str | None, typer.Option(help="Mélange's configuration file.")]
_Rate = Annotated[float | None, typer.Option(help="Requests per second.", rich_help_panel=_LOAD)]
_Isl = Annotated[int | None, typer.Option(help="Prompt tokens of a request.", rich_help_panel=_LOAD)]
_Osl = Annotated[int | None, typer.Option(help="Output tokens of a request.", rich_help_panel=_LOAD)]
_Lengths = Annotated[str | None, typer.Option(help="File of {isl, osl, weight} records.", rich_help_panel=_LOAD)]
_Trace = Annotated[str | None, typer.Option(help="Azure CSV, Mooncake or APEX JSONL.", rich_help_panel=_LOAD)]
_Hours = Annotated[str | None, typer.Option(help="CSV of hours and their mean_rps.", rich_help_panel=_LOAD)]
_Hourly = Annotated[bool, typer.Option(help="Follow the trace hour by hour.", rich_help_panel=_LOAD)]
_Limit = Annotated[str | None, typer.Option(help="Limit at the percentile, such as 500ms.", rich_help_panel=_LOAD)]
_Percentile = Annotated[float, typer.Option(help="Percentile at which limits hold.", rich_help_panel=_LOAD)]
_Split = Annotated[bool, typer.Option(help="Try prefill and decode pools too, on one GPU type or two.")]
_Budget = Annotated[float | None, typer.Option(help="$/h at most; without a rate, carry most for it.")]
_Spare = Annotated[int | None, typer.Option(help="Units that may fail at once (N−k).", rich_help_panel=_WITHSTAND)]
_Region = Annotated[bool, typer.Option(help="Any one region may fail.", rich_help_panel=_WITHSTAND)]
_Error = Annotated[float | None, typer.Option(help="Throughput error, such as 0.1.", rich_help_panel=_WITHSTAND)]
_Overload = Annotated[float, typer.Option(help="Chance of overload then allowed.", rich_help_panel=_WITHSTAND)]
_Current = Annotated[str | None, typer.Option(help="Fleet plan that runs now.", rich_help_panel=_CHANGE)]
_Start = Annotated[float | None, typer.Option(help="$ to start a replica.", rich_help_panel=_CHANGE)]
_Stay = Annotated[int | None, typer.Option(help="Hours that a started replica stays.", rich_help_panel=_CHANGE)]
_WhatIf = Annotated[list[str] | None, typer.Option(help="rate=2, price.GPU=0.5, tpot=1.5, without=GPU; repeat it.")]


def fleet(
    model: _Model = None,
    offers: _Offers = None,
    gpus: _Gpus = None,
    melange: _Melange = None,
    helix: _Helix = None,
    rate: _Rate = None,
    isl: _Isl = None,
    osl: _Osl = None,
    lengths: _Lengths = None,
    trace: _Trace = None,
    hours: _Hours = None,
    hourly: _Hourly = False,
    ttft: _Limit = None,
    tpot: _Limit = None,
    e2e: _Limit = None,
    percentile: _Percentile = 99.0,
    quantization: Annotated[str | None, typer.Option(help="Formats to choose from, such as bf16,fp8.")] = None,
    split: _Split = False,
    budget: _Budget = None,
    spare: _Spare = None,
    region_loss: _Region = False,
    error: _Error = None,
    overload: _Overload = 0.05,
    current: _Current = None,
    start_usd: _Start = None,
    least_hours: _Stay = None,
    what_if: _WhatIf = None,
    slices: Annotated[int | None, typer.Option(help="Whole parts of every request class (Mélange).")] = None,
    fractional: Annotated[bool, typer.Option(help="Let any share of a request class go anywhere.")] = False,
    cluster: _Cluster = None,
    place: _Place = False,
    max_stages: _Stages = None,
    latency: _Latency = None,
    batch: _Batch = None,
    hop: _Hop = None,
    output: shared.Output = None,
    json: shared.Json = False,
) -> None:
    """Find the cheapest fleet of GPUs for a load within latency targets, and where its requests go."""
    import time

    started = time.perf_counter()
    from ..report.fleet import print_fleet_plan
    from .common import emit
    from .fleet_options import FleetOptions, fleet_plan, refuse_overwriting

    refuse_overwriting(current, output)

    plan = fleet_plan(
        FleetOptions(
            model=model, offers=offers, gpus=gpus, melange=melange, rate=rate, isl=isl, osl=osl, lengths=lengths,
            trace=trace, hours=hours, hourly=hourly, targets={"ttft_s": ttft, "tpot_s": tpot, "e2e_s": e2e},
            percentile=percentile, quantization=quantization, split=split, budget=budget, spare=spare,
            region_loss=region_loss, error=error, overload=overload, current=current, start_usd=start_usd,
            least_hours=least_hours, what_if=tuple(what_if or ()), slices=slices, fractional=fractional,
            helix=helix, cluster=cluster, place=place, max_stages=max_stages, latency=latency, batch=batch, hop=hop,
        )
    )  # fmt: skip
    emit(plan, json=json, output=output, view=lambda: print_fleet_plan(plan, time.perf_counter() - started))

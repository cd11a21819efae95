"""`shardwright serve`: the best way to serve a model on a cluster under latency targets."""

from __future__ import annotations

from typing import Annotated

import typer

from . import serving_options as options
from . import training_options as shared

_Held = Annotated[str | None, typer.Option(help="Hold to these values, such as 4 or 2,4,8.", show_default=False)]


def serve(
    context: typer.Context,
    model: shared.Model,
    cluster: shared.Cluster,
    measured: shared.Measured = None,
    isl: options.Isl = None,
    osl: options.Osl = None,
    rate: options.Rate = None,
    concurrency: options.Concurrency = None,
    trace: options.TraceFile = None,
    lengths: options.LengthFile = None,
    hours: Annotated[str | None, typer.Option(help="CSV of hours and their mean_rps: a plan for each hour.")] = None,
    cached: options.Cached = 0.0,
    spread: options.Spread = 0.0,
    ttft: options.Limit = None,
    tpot: options.Limit = None,
    e2e: options.Limit = None,
    percentile: options.Percentile = 99.0,
    mode: Annotated[str, typer.Option(help="auto, aggregated, disaggregated, shared or afd.")] = "auto",
    objective: Annotated[str | None, typer.Option(help="throughput, gpus, cost, latency or energy.")] = None,
    engine: options.Engine = "vllm",
    engine_version: options.EngineVersion = "",
    quantization: options.Formats = "bf16",
    draft_tokens: options.Drafts = None,
    acceptance: options.Acceptance = None,
    expert_imbalance: options.Imbalance = None,
    experts: options.ExpertFile = None,
    most_devices: Annotated[int | None, typer.Option("--gpus", help="Use this many devices at most.")] = None,
    tp: _Held = None,
    pp: _Held = None,
    attn_dp: _Held = None,
    cp: _Held = None,
    ep: _Held = None,
    moe_tp: _Held = None,
    operators: options.Operators = None,
    seed: options.Seed = 0,
    output: shared.Output = None,
    json: shared.Json = False,
) -> None:
    """Find the best deployment of a model for a load, its latency targets held in simulation."""
    import time

    from ..inputs import load_model, load_topology
    from ..report.serving import print_serving_plan
    from ..serving.planning import plan_serving
    from .common import emit

    started = time.perf_counter()
    graph, graph_input = load_model(model)
    devices, devices_input = load_topology(cluster, measured)
    given, job = options.described(context.params)
    plan = plan_serving(
        graph, devices, job, trace=given.trace, hours=given.hours, inputs=(graph_input, devices_input, *given.inputs)
    )
    emit(plan, json=json, output=output, view=lambda: print_serving_plan(plan, time.perf_counter() - started))

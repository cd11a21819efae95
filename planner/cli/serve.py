"""`shardwright serve`: the best way to serve a model on a cluster under latency targets."""

from __future__ import annotations

from typing import Annotated

import typer

from . import training_options as shared

_Held = Annotated[str | None, typer.Option(help="Hold to these values, such as 4 or 2,4,8.", show_default=False)]
_Limit = Annotated[str | None, typer.Option(help="Limit at the percentile, such as 500ms.", show_default=False)]


def serve(
    model: shared.Model,
    cluster: shared.Cluster,
    measured: shared.Measured = None,
    isl: Annotated[int | None, typer.Option(help="Prompt tokens of a request.")] = None,
    osl: Annotated[int | None, typer.Option(help="Output tokens of a request.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second, Poisson.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests always in hand: a closed loop.")] = None,
    trace: Annotated[str | None, typer.Option(help="Azure CSV, Mooncake JSONL or APEX JSONL.")] = None,
    lengths: Annotated[str | None, typer.Option(help="File of {isl, osl, weight} records.")] = None,
    hours: Annotated[str | None, typer.Option(help="CSV of hours and their mean_rps: a plan for each hour.")] = None,
    cached: Annotated[float, typer.Option(help="Share of a prompt found in the prefix cache.")] = 0.0,
    spread: Annotated[float, typer.Option(help="Lengths vary uniformly from 1 - SPREAD to 1 of nominal.")] = 0.0,
    ttft: _Limit = None,
    tpot: _Limit = None,
    e2e: _Limit = None,
    percentile: Annotated[float, typer.Option(help="Percentile at which limits hold.")] = 99.0,
    mode: Annotated[str, typer.Option(help="auto, aggregated, disaggregated, shared or afd.")] = "auto",
    objective: Annotated[str | None, typer.Option(help="throughput, gpus, cost, latency or energy.")] = None,
    engine: Annotated[str, typer.Option(help="vllm, sglang or trtllm.")] = "vllm",
    engine_version: Annotated[str, typer.Option(help="Version of the engine (default: newest fitted).")] = "",
    quantization: Annotated[
        str, typer.Option(help="bf16, fp8, w8a16, int8, w4a16, nvfp4, nvfp4-experts or mxfp4, +kv8 for an fp8 cache.")
    ] = "bf16",
    draft_tokens: Annotated[int | None, typer.Option(help="Speculative tokens per step (MTP).")] = None,
    acceptance: Annotated[float | None, typer.Option(help="Probability that one is kept.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Use this many devices at most.")] = None,
    tp: _Held = None,
    pp: _Held = None,
    attn_dp: _Held = None,
    cp: _Held = None,
    ep: _Held = None,
    moe_tp: _Held = None,
    operators: Annotated[str | None, typer.Option(help="Operator tables (experimental: attention reads low).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of sampled arrivals and lengths.")] = 0,
    output: shared.Output = None,
    json: shared.Json = False,
) -> None:
    """Find the best deployment of a model for a load, its latency targets held in simulation."""
    import time

    from ..inputs import load_model, load_topology
    from ..report.serving import print_serving_plan
    from ..serving.planning import plan_serving
    from .common import emit
    from .serving_options import LoadOptions, given_load, serving_job

    started = time.perf_counter()
    graph, graph_input = load_model(model)
    devices, devices_input = load_topology(cluster, measured)
    given = given_load(
        LoadOptions(isl, osl, rate, concurrency, trace, lengths, hours, cached=cached, spread=spread, seed=seed)
    )
    job = serving_job(
        given.load, {"ttft": ttft, "tpot": tpot, "e2e": e2e}, percentile=percentile, mode=mode, objective=objective,
        engine=engine, engine_version=engine_version, quantization=quantization, draft_tokens=draft_tokens,
        acceptance=acceptance, most_devices=gpus, operators=operators, seed=seed,
        tp=tp, pp=pp, attn_dp=attn_dp, cp=cp, ep=ep, moe_tp=moe_tp,
    )  # fmt: skip
    plan = plan_serving(
        graph, devices, job, trace=given.trace, hours=given.hours, inputs=(graph_input, devices_input, *given.inputs)
    )
    emit(plan, json=json, output=output, view=lambda: print_serving_plan(plan, time.perf_counter() - started))

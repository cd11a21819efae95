"""`shardwright estimate`: what one given training strategy or serving deployment takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from . import serving_options as load
from . import training_options as options

_Degree = Annotated[int, typer.Option(help="Degree.")]
_Part = Annotated[int | None, typer.Option(help="Ranks that divide it, when fewer than dp_shard × cp.")]
_Offload = Annotated[str, typer.Option(help="none, cpu or nvme.")]

_OF_BOTH = frozenset({"model", "cluster", "measured", "output", "json"})


def estimate(
    context: typer.Context,
    model: options.Model,
    cluster: options.Cluster,
    measured: options.Measured = None,
    gbs: options.Gbs = None,
    seq: options.Seq = None,
    job: options.JobFile = None,
    precision: options.Precision = None,
    optimizer: options.Optimizer = None,
    framework: options.FrameworkName = None,
    trained: options.Trained = None,
    tokens: options.Tokens = None,
    margin: options.Margin = None,
    price: options.Price = None,
    cpu_tier: options.Tier = None,
    nvme_tier: options.Tier = None,
    tp: _Degree = 1,
    sp: Annotated[bool, typer.Option(help="Sequence parallelism over the tp ranks.")] = False,
    cp: _Degree = 1,
    pp: _Degree = 1,
    vpp: _Degree = 1,
    dp_replicate: _Degree = 1,
    dp_shard: Annotated[int | None, typer.Option(help="Degree (default: what is left of the devices).")] = None,
    zero: Annotated[int, typer.Option(help="0 to 3: what is divided over dp_shard × cp.")] = 1,
    ep: _Degree = 1,
    etp: _Degree = 1,
    mbs: Annotated[int, typer.Option(help="Micro-batch, in sequences.")] = 1,
    recompute: Annotated[str, typer.Option(help="none, selective or full.")] = "none",
    recompute_modules: Annotated[str | None, typer.Option(help="What selective recomputes, by commas.")] = None,
    recompute_layers: Annotated[int | None, typer.Option(help="Layers per stage that full recomputes.")] = None,
    schedule: Annotated[str, typer.Option(help="1f1b, interleaved, gpipe, zb-h1, zb-v or dualpipe.")] = "1f1b",
    stage_layers: Annotated[str | None, typer.Option(help="Layers of every virtual stage, such as 9,8,8,7.")] = None,
    stage_recompute: Annotated[str | None, typer.Option(help="How many of them full recomputes, by stage.")] = None,
    cp_comm: Annotated[str, typer.Option(help="p2p (ring), all_gather, a2a (Ulysses) or a2a+p2p.")] = "p2p",
    weight_shard: _Part = None,
    gradient_shard: _Part = None,
    offload_optimizer: _Offload = "none",
    offload_activations: _Offload = "none",
    tp_overlap: Annotated[bool, typer.Option(help="Fuse tp transfers into products.")] = False,
    ep_overlap: Annotated[str, typer.Option(help="none, shared or microbatch.")] = "none",
    sync_period: Annotated[int, typer.Option(help="Steps between averages of the dp_replicate ranks.")] = 1,
    sync: Annotated[str, typer.Option(help="How they average: all_reduce, overlapped or pairs.")] = "all_reduce",
    vocab_parallel: Annotated[bool, typer.Option(help="Divide embedding and head over pp.")] = False,
    pool: load.Pools = None,
    isl: load.Isl = None,
    osl: load.Osl = None,
    rate: load.Rate = None,
    concurrency: load.Concurrency = None,
    trace: load.TraceFile = None,
    lengths: load.LengthFile = None,
    cached: load.Cached = 0.0,
    spread: load.Spread = 0.0,
    ttft: load.Limit = None,
    tpot: load.Limit = None,
    e2e: load.Limit = None,
    percentile: load.Percentile = 99.0,
    engine: load.Engine = "vllm",
    engine_version: load.EngineVersion = "",
    quantization: load.Formats = "bf16",
    draft_tokens: load.Drafts = None,
    acceptance: load.Acceptance = None,
    expert_imbalance: load.Imbalance = None,
    experts: load.ExpertFile = None,
    operators: load.Operators = None,
    seed: load.Seed = 0,
    output: options.Output = None,
    json: options.Json = False,
) -> None:
    """Predict the time and memory of one given training strategy, or the latencies of given --pool workers."""
    if pool or any(each is not None for each in (isl, osl, rate, concurrency, trace, lengths)):
        _refuse_training_options(context)
        _deployment(context.params)
        return
    import msgspec

    from ..api import estimate_training
    from ..errors import InputError
    from ..inputs import load_model, load_topology
    from ..report.training import print_training_plan
    from ..strategy import Strategy
    from .common import emit

    work = options.build_job(job, {}, **options.job_fields(context.params))
    graph, devices = load_model(model), load_topology(cluster, measured)
    given = {name: context.params[name] for name in Strategy.__struct_fields__ if name in context.params}
    given["recompute_modules"] = options.words(recompute_modules)
    given["stage_layers"] = options.integers(stage_layers, "--stage-layers") or None
    given["stage_recompute"] = options.integers(stage_recompute, "--stage-recompute") or None
    if dp_shard is None:
        given["dp_shard"] = _rest(devices[0].n_devices, tp * cp * pp * dp_replicate)
    try:
        strategy = msgspec.convert(given, Strategy)
    except msgspec.ValidationError as error:
        raise InputError(f"strategy: {error}") from error
    plan = estimate_training(graph, devices, work, strategy)
    emit(plan, json=json, output=output, view=lambda: print_training_plan(plan))


def _deployment(params: Mapping[str, Any]) -> None:
    from ..errors import InputError
    from ..inputs import load_model, load_topology
    from ..report.serving import print_serving_plan
    from ..serving.planning import estimate_serving
    from .common import emit

    if not params["pool"]:
        raise InputError("a serving load needs --pool: the workers to estimate, such as --pool 2xtp4")
    (model, model_input), (cluster, cluster_input) = (
        load_model(params["model"]),
        load_topology(params["cluster"], params["measured"]),
    )
    given, job = load.described({name: each for name, each in params.items() if name not in load.DEGREES})
    pools = [load.parsed_pool(text) for text in params["pool"]]
    inputs = (model_input, cluster_input, *given.inputs)
    plan = estimate_serving(model, cluster, job, pools, trace=given.trace, inputs=inputs)
    emit(plan, json=params["json"], output=params["output"], view=lambda: print_serving_plan(plan))


def _refuse_training_options(context: typer.Context) -> None:
    from ..errors import InputError

    for each in context.command.params:
        grouped = getattr(each, "rich_help_panel", None) is not None
        source = context.get_parameter_source(each.name or "")
        if not grouped and each.name not in _OF_BOTH and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"{each.opts[0]} is of a training strategy: leave it out beside --pool and a serving load")


def _rest(devices: int, used: int) -> int:
    from ..errors import InputError

    if used < 1 or devices % used:
        raise InputError(f"tp × cp × pp × dp_replicate must be at least 1 and divide {devices} devices but is {used}")
    return devices // used

"""`shardwright estimate`: what one given training strategy or serving deployment takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from . import serving_options as load
from . import training_options as options
from .records import with_options

_Degree = Annotated[int, typer.Option(help="Degree.")]
_Part = Annotated[int | None, typer.Option(help="Ranks that divide it, when fewer than dp_shard × cp.")]
_Offload = Annotated[str, typer.Option(help="none, cpu or nvme.")]

_OF_BOTH = frozenset({"model", "cluster", "measured", "output", "json"})


class Degrees:
    """The strategy to predict."""

    tp: _Degree = 1
    sp: Annotated[bool, typer.Option(help="Sequence parallelism over the tp ranks.")] = False
    cp: _Degree = 1
    pp: _Degree = 1
    vpp: _Degree = 1
    dp_replicate: _Degree = 1
    dp_shard: Annotated[int | None, typer.Option(help="Degree (default: what is left of the devices).")] = None
    zero: Annotated[int, typer.Option(help="0 to 3: what is divided over dp_shard × cp.")] = 1
    ep: _Degree = 1
    etp: _Degree = 1
    mbs: Annotated[int, typer.Option(help="Micro-batch, in sequences.")] = 1
    recompute: Annotated[str, typer.Option(help="none, selective or full.")] = "none"
    recompute_modules: Annotated[str | None, typer.Option(help="What selective recomputes, by commas.")] = None
    recompute_layers: Annotated[int | None, typer.Option(help="Layers per stage that full recomputes.")] = None
    schedule: Annotated[str, typer.Option(help="1f1b, interleaved, gpipe, zb-h1, zb-v or dualpipe.")] = "1f1b"
    stage_layers: Annotated[str | None, typer.Option(help="Layers of every virtual stage, such as 9,8,8,7.")] = None
    stage_recompute: Annotated[str | None, typer.Option(help="How many of them are recomputed, by stage.")] = None
    cp_comm: Annotated[str, typer.Option(help="p2p (ring), all_gather, a2a (Ulysses) or a2a+p2p.")] = "p2p"
    weight_shard: _Part = None
    gradient_shard: _Part = None
    offload_optimizer: _Offload = "none"
    offload_activations: _Offload = "none"
    tp_overlap: Annotated[bool, typer.Option(help="Fuse tp transfers into products.")] = False
    ep_overlap: Annotated[str, typer.Option(help="none, shared or microbatch.")] = "none"
    sync_period: Annotated[int, typer.Option(help="Steps between averages of the dp_replicate ranks.")] = 1
    sync: Annotated[str, typer.Option(help="How they average: all_reduce, overlapped or pairs.")] = "all_reduce"
    vocab_parallel: Annotated[bool, typer.Option(help="Divide embedding and head over pp.")] = False


class Deployment:
    """The workers to predict instead, and their load."""

    pool: load.Pools = None
    isl: load.Isl = None
    osl: load.Osl = None
    rate: load.Rate = None
    concurrency: load.Concurrency = None
    trace: load.TraceFile = None
    lengths: load.LengthFile = None
    cached: load.Cached = 0.0
    spread: load.Spread = 0.0
    ttft: load.Limit = None
    tpot: load.Limit = None
    e2e: load.Limit = None
    percentile: load.Percentile = 99.0
    engine: load.Engine = "vllm"
    engine_version: load.EngineVersion = ""
    quantization: load.Formats = "bf16"
    draft_tokens: load.Drafts = None
    acceptance: load.Acceptance = None
    expert_imbalance: load.Imbalance = None
    experts: load.ExpertFile = None
    operators: load.Operators = None
    seed: load.Seed = 0


@with_options(options.Place, options.Work, options.Budget, Degrees, Deployment, options.Result)
def estimate(context: typer.Context) -> None:
    """Predict the time and memory of one given training strategy, or the latencies of given --pool workers."""
    given = context.params
    load_given = ("isl", "osl", "rate", "concurrency", "trace", "lengths")
    if given["pool"] or any(given[name] is not None for name in load_given):
        _refuse_training_options(context)
        _deployment(given)
    else:
        _strategy(given)


def _strategy(params: Mapping[str, Any]) -> None:
    import msgspec

    from ..api import estimate_training
    from ..errors import InputError
    from ..inputs import load_model, load_topology
    from ..report.training import print_training_plan
    from ..strategy import Strategy
    from .common import emit

    work = options.build_job(params["job"], {}, **options.job_fields(params))
    graph, devices = load_model(params["model"]), load_topology(params["cluster"], params["measured"])
    given = {name: params[name] for name in Strategy.__struct_fields__ if name in params}
    given["recompute_modules"] = options.words(params["recompute_modules"])
    for name in ("stage_layers", "stage_recompute"):
        given[name] = options.integers(params[name], f"--{name.replace('_', '-')}") or None
    if given["dp_shard"] is None:
        used = math.prod(given[name] for name in ("tp", "cp", "pp", "dp_replicate"))
        given["dp_shard"] = _rest(devices[0].n_devices, used)
    try:
        strategy = msgspec.convert(given, Strategy)
    except msgspec.ValidationError as error:
        raise InputError(f"strategy: {error}") from error
    plan = estimate_training(graph, devices, work, strategy)
    emit(plan, json=params["json"], output=params["output"], view=lambda: print_training_plan(plan))


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

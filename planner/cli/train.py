"""`shardwright train`: the best way to split a training job over a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import training_options as options

if TYPE_CHECKING:
    from ..workload.training import Objective

_AIM = {"rich_help_panel": "What to aim at", "show_default": False}
_Objective = Annotated[
    str | None,
    typer.Option(help="step_s, tokens_per_s_per_device, days, usd, energy_j or peak_memory_bytes.", **_AIM),
]
_TimeLimit = Annotated[str | None, typer.Option(help="Longest step allowed, such as 20s.", **_AIM)]
_Pareto = Annotated[str | None, typer.Option(help="All compromises between two objectives: step_s,usd.", **_AIM)]
_Robustness = Annotated[int | None, typer.Option(help="Samples of bandwidths each off by 20 %; the regret.", **_AIM)]
_Explore = Annotated[
    str | None, typer.Option(help=f"Techniques to try as well, or all: {', '.join(options.TECHNIQUES)}.", **_AIM)
]


def train(
    context: typer.Context,
    model: options.Model,
    cluster: options.Clusters,
    measured: options.Measured = None,
    gbs: options.Gbs = None,
    seq: options.Seq = None,
    job: options.JobFile = None,
    precision: options.Precision = None,
    optimizer: options.Optimizer = None,
    framework: options.FrameworkName = None,
    trained: options.Trained = None,
    experts: options.ExpertFile = None,
    tokens: options.Tokens = None,
    margin: options.Margin = None,
    price: options.Price = None,
    cpu_tier: options.Tier = None,
    nvme_tier: options.Tier = None,
    objective: _Objective = None,
    time_limit: _TimeLimit = None,
    pareto: _Pareto = None,
    robustness: _Robustness = None,
    explore: _Explore = None,
    tp: options.Held = None,
    cp: options.Held = None,
    pp: options.Held = None,
    vpp: options.Held = None,
    dp_replicate: options.Held = None,
    dp_shard: options.Held = None,
    zero: options.Held = None,
    ep: options.Held = None,
    etp: options.Held = None,
    mbs: options.Held = None,
    sp: options.HeldSwitch = None,
    recompute: options.HeldRecompute = None,
    schedule: options.HeldSchedule = None,
    cp_comm: options.HeldContext = None,
    weight_shard: options.HeldWeights = None,
    gradient_shard: options.HeldGradients = None,
    offload_optimizer: options.HeldOffload = None,
    offload_activations: options.HeldOffload = None,
    tp_overlap: options.HeldSwitch = None,
    ep_overlap: options.HeldExpertOverlap = None,
    sync_period: options.HeldPeriod = None,
    sync: options.HeldSync = None,
    vocab_parallel: options.HeldVocabulary = None,
    output: options.Output = None,
    json: options.Json = False,
) -> None:
    """Find the best way to split a training job over a cluster, with proof."""
    import time

    from ..api import frontier_training, plan_training
    from ..inputs import load_model, load_topology
    from ..report.frontier import print_frontier
    from ..report.training import print_training_plan
    from .common import emit, emit_text, json_text, parse_duration

    started = time.perf_counter()
    work = options.build_job(
        job,
        options.constraints(context.params),
        **options.job_fields(context.params),
        objective=objective,
        time_limit_s=None if time_limit is None else parse_duration(time_limit),
        robustness_samples=robustness,
        explore=options.techniques(explore),
    )
    if pareto is not None:
        front = frontier_training(model, [load_topology(each, measured)[0] for each in cluster], work, _pair(pareto))
        emit_text(json_text(front), "frontier", json=json, output=output, view=lambda: print_frontier(front))
        return
    if len(cluster) > 1:
        raise InputError("several --cluster need --pareto: a plan is for one cluster")
    plan = plan_training(load_model(model), load_topology(cluster[0], measured), work)
    seconds = time.perf_counter() - started
    emit(plan, json=json, output=output, view=lambda: print_training_plan(plan, seconds))


def _pair(text: str) -> tuple[Objective, Objective]:
    """`step_s,usd` as two objectives. Raises InputError naming the option."""
    import msgspec

    from ..workload.training import Objective

    try:
        return msgspec.convert(options.words(text), tuple[Objective, Objective])
    except msgspec.ValidationError as error:
        raise InputError(f"--pareto must be two objectives such as step_s,usd but got {text!r}: {error}") from error

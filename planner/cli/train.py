"""`shardwright train`: the best way to split a training job over a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from . import training_options as options

_Held = Annotated[str | None, typer.Option(help="Hold to these values, such as 4 or 2,4,8.", show_default=False)]
_Words = Annotated[str | None, typer.Option(help="Hold to these values.", show_default=False)]


def train(
    model: options.Model,
    cluster: options.Cluster,
    measured: options.Measured = None,
    gbs: options.Gbs = None,
    seq: options.Seq = None,
    job: options.JobFile = None,
    precision: options.Precision = None,
    optimizer: options.Optimizer = None,
    margin: options.Margin = None,
    tp: _Held = None,
    cp: _Held = None,
    pp: _Held = None,
    vpp: _Held = None,
    dp_replicate: _Held = None,
    dp_shard: _Held = None,
    zero: _Held = None,
    ep: _Held = None,
    etp: _Held = None,
    mbs: _Held = None,
    sp: Annotated[bool | None, typer.Option(help="Hold sequence parallelism on or off.")] = None,
    recompute: _Words = None,
    schedule: _Words = None,
    output: options.Output = None,
    json: options.Json = False,
) -> None:
    """Find the best way to split a training job over a cluster, with proof."""
    import time

    from ..api import plan_training
    from ..inputs import load_model, load_topology
    from ..report.training import print_training_plan
    from .common import emit

    started = time.perf_counter()
    held = {
        "tp": tp, "cp": cp, "pp": pp, "vpp": vpp, "dp_replicate": dp_replicate, "dp_shard": dp_shard, "zero": zero,
        "ep": ep, "etp": etp, "mbs": mbs,
    }  # fmt: skip
    constraints: dict[str, object] = {
        name: options.integers(text, f"--{name.replace('_', '-')}") for name, text in held.items()
    }
    constraints |= {"sp": sp, "recompute": options.words(recompute), "schedule": options.words(schedule)}
    work = options.build_job(
        job, constraints, gbs=gbs, sequence_length=seq, precision=precision, optimizer=optimizer, memory_margin=margin
    )
    plan = plan_training(load_model(model), load_topology(cluster, measured), work)
    seconds = time.perf_counter() - started
    emit(plan, json=json, output=output, view=lambda: print_training_plan(plan, seconds))

"""`shardwright train`: the best way to split a training job over a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import training_options as options
from .records import with_options

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
_Effort = Annotated[int | None, typer.Option(help="Strategies to evaluate at most; the gap tells.", **_AIM)]


class Expected:
    """A plan of experts to count with."""

    experts: options.ExpertFile = None


class Aims:
    """What to aim at, and what to try for it."""

    objective: _Objective = None
    time_limit: _TimeLimit = None
    pareto: _Pareto = None
    robustness: _Robustness = None
    explore: _Explore = None
    work: _Effort = None


@with_options(options.Places, options.Work, Expected, options.Budget, Aims, options.Holds, options.Result)
def train(context: typer.Context) -> None:
    """Find the best way to split a training job over a cluster, with proof."""
    import time

    from shardwright.solvers import Work

    from ..api import frontier_training, plan_training
    from ..inputs import load_model, load_topology
    from ..report.frontier import print_frontier
    from ..report.training import print_training_plan
    from .common import emit, emit_text, json_text, parse_duration

    started, given = time.perf_counter(), context.params
    if given["work"] is not None and given["work"] < 1:
        raise InputError(f"--work {given['work']}: must be at least 1 strategy")
    stop = None if given["work"] is None else Work(given["work"])
    job = options.build_job(
        given["job"],
        options.constraints(given),
        **options.job_fields(given),
        objective=given["objective"],
        time_limit_s=None if given["time_limit"] is None else parse_duration(given["time_limit"]),
        robustness_samples=given["robustness"],
        explore=options.techniques(given["explore"]),
    )
    model, clusters, json, output = (given[name] for name in ("model", "cluster", "json", "output"))
    places = [load_topology(each, given["measured"]) for each in clusters]
    if given["pareto"] is not None:
        front = frontier_training(model, [topology for topology, _ in places], job, _pair(given["pareto"]), stop=stop)
        emit_text(json_text(front), "frontier", json=json, output=output, view=lambda: print_frontier(front))
        return
    if len(clusters) > 1:
        raise InputError("several --cluster need --pareto: a plan is for one cluster")
    plan = plan_training(load_model(model), places[0], job, stop=stop)
    seconds = time.perf_counter() - started
    emit(plan, json=json, output=output, view=lambda: print_training_plan(plan, seconds))


def _pair(text: str) -> tuple[Objective, Objective]:
    """`step_s,usd` as two objectives. Raises InputError naming the option."""
    from typing import get_args

    import msgspec

    from ..workload.training import Objective

    try:
        return msgspec.convert(options.words(text), tuple[Objective, Objective])
    except msgspec.ValidationError as error:
        known = ", ".join(get_args(Objective))
        raise InputError(f"--pareto must be two of {known}, such as step_s,usd, but got {text!r}") from error

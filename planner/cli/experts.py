"""`shardwright experts`: which GPU holds which expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import writable
from .records import with_options

if TYPE_CHECKING:
    from ..experts.request import ExpertRequest

_Files = Annotated[
    list[str],
    typer.Option(
        "--routing",
        help="Routing file; repeat it for several workloads. prefill=FILE and decode=FILE: a placement for each phase.",
    ),
]
_Array = Annotated[str | None, typer.Option(help="Array of an .npz file to read.")]
_Top = Annotated[int | None, typer.Option(help="Keep the first K expert ids of every token.")]
_Cluster = Annotated[str | None, typer.Option(help="Catalog name such as dgx-h100:8, or a topology file.")]
_Measured = Annotated[str | None, typer.Option(help="mpiGraph JSON whose matrix overrides nominal links.")]
_Gpus = Annotated[int | None, typer.Option(help="Number of equal GPUs, instead of --cluster.")]
_PerNode = Annotated[int | None, typer.Option(help="GPUs in a node. [default: all]")]
_Ratio = Annotated[float, typer.Option(help="Cost of a link between nodes over one inside.")]
_Objective = Annotated[str, typer.Option(help="transitions, fanout, load, joint or minimax.")]
_Weight = Annotated[float | None, typer.Option(help="Weight of the load ratio. [default: 10 for joint]")]
_Redundant = Annotated[int, typer.Option(help="Slots per layer for further copies of hot experts.")]
_Slots = Annotated[int | None, typer.Option(help="Slots on each GPU per layer. [default: even shares]")]
_Groups = Annotated[int | None, typer.Option(help="Router groups whose experts must share a node.")]
_Share = Annotated[
    list[float] | None, typer.Option("--workload-weight", help="Weight of each workload in turn. [default: worst case]")
]
_HeldOut = Annotated[float, typer.Option(help="Share of each trace's tokens to judge by only.")]
_Method = Annotated[str, typer.Option(help="auto, or a published program: moetuner or exflow.")]
_Certify = Annotated[bool, typer.Option("--certify", help="Spend minutes on a tighter bound on traffic.")]
_Current = Annotated[str | None, typer.Option(help="Plan in force to re-plan from.")]
_Size = Annotated[str | None, typer.Option(help="Bytes of one expert's weights in one layer, such as 44MB.")]
_Budget = Annotated[str | None, typer.Option(help="Most bytes a re-plan may move, such as 20GB.")]
_Target = Annotated[float, typer.Option(help="Load ratio at which a re-plan for load stops moving.")]
_Seed = Annotated[int, typer.Option(help="Seed of the search.")]
_Work = Annotated[int | None, typer.Option(help="Swaps to propose.")]
_Json = Annotated[bool, typer.Option("--json", help="Only the plan as JSON on stdout.")]
_Output = Annotated[str | None, typer.Option("--output", "-o", callback=writable, help="Write the plan to this file.")]


class Options:
    """What `experts` asks for."""

    routing: _Files
    array: _Array = None
    top: _Top = None
    cluster: _Cluster = None
    measured: _Measured = None
    gpus: _Gpus = None
    gpus_per_node: _PerNode = None
    link_ratio: _Ratio = 1.0
    objective: _Objective = "joint"
    load_weight: _Weight = None
    redundant: _Redundant = 0
    slots_per_gpu: _Slots = None
    expert_groups: _Groups = None
    workload_weight: _Share = None
    held_out: _HeldOut = 0.0
    method: _Method = "auto"
    certify: _Certify = False
    current: _Current = None
    expert_size: _Size = None
    budget: _Budget = None
    target: _Target = 1.0
    seed: _Seed = 0
    work: _Work = None
    output: _Output = None
    json: _Json = False


@with_options(Options)
def experts(context: typer.Context) -> None:
    """Place the experts of a mixture-of-experts model on GPUs so that load is even and tokens travel little."""
    import time

    started = time.perf_counter()
    from ..experts.cluster import cluster_for
    from ..experts.workloads import load_workloads
    from ..plan.experts import ExpertPlan
    from .common import emit
    from .expert_options import limits, planned, replanned, workloads_by_phase

    given = context.params
    request = _request(given)
    place = cluster_for(*(given[name] for name in ("cluster", "measured", "gpus", "gpus_per_node", "link_ratio")))
    bounds = limits(*(given[name] for name in ("current", "expert_size", "budget", "target")))
    workloads = workloads_by_phase(
        given["routing"], lambda files: load_workloads(files, given["array"], given["top"], given["held_out"])
    )
    plan = planned(workloads, place, request) if bounds is None else replanned(bounds, workloads, place, request)

    def view() -> None:
        from ..report.experts import print_expert_phases, print_expert_plan

        elapsed = time.perf_counter() - started
        print_expert_plan(plan, elapsed) if isinstance(plan, ExpertPlan) else print_expert_phases(plan, elapsed)

    emit(plan, json=given["json"], output=given["output"], view=view)


def _request(given: Mapping[str, Any]) -> ExpertRequest:
    from ..experts.request import ExpertRequest

    names = ("objective", "load_weight", "redundant", "slots_per_gpu", "expert_groups", "held_out", "method", "certify")
    chosen = {name: given[name] for name in (*names, "seed")}
    weights = tuple(given["workload_weight"] or ()) or None
    return ExpertRequest(
        workload_weights=weights, **chosen, **({} if given["work"] is None else {"work": given["work"]})
    )

"""The terminal view of an expert placement: how good it is, on which tokens, and how sure that is."""

from __future__ import annotations

from pathlib import PurePath

from ..plan.expert_phases import ExpertPhasesPlan
from ..plan.experts import ExpertPlan, WorkloadScore
from .text import console, count, duration, percent, si, table


def print_expert_plan(plan: ExpertPlan, seconds: float | None = None) -> None:
    """Print the whole view; `seconds` is how long planning took."""
    out = console()
    layers = f"{len(plan.moe_layers)} layers of {plan.experts} experts"
    out.print(f"{layers} on {plan.gpus} GPUs", style="bold", markup=False)
    copies = f", {plan.redundant} redundant" if plan.redundant else ""
    out.print(f"{max(plan.slots)} slots per GPU and layer{copies}, objective {plan.objective}\n", markup=False)
    out.print(f"Objective  {plan.optimality.objective}", markup=False)
    took = f", {duration(seconds)}" if seconds is not None else ""
    best = plan.optimality
    proof = "proven optimal" if best.status == "optimal" else f"certified gap {percent(best.gap)}"
    out.print(f"Value      {best.value:.6g}, no placement below {best.bound:.6g}: {proof}{took}", markup=False)
    for other in plan.alternatives:
        out.print(f"Instead    {other.label}: {other.value:.6g} ({other.why})", markup=False)
    if plan.migration is not None:
        move = plan.migration
        when = f", {duration(move.seconds)}" if move.seconds is not None else ""
        out.print(
            f"Migration  {count(move.moved)} of {count(move.residents)} copies, {si(move.bytes, 'B')}{when}",
            markup=False,
        )
        if move.pays_after_s is not None:
            out.print(f"Pays       after {duration(move.pays_after_s)}", markup=False)
    out.print("")
    columns = ("workload", "tokens", "load mean", "p95", "worst", "link cost", "hops", "pair", "GPUs", "nodes")
    out.print(table("Replayed on", columns, map(_row, plan.scores)))
    if plan.assumptions:
        out.print("Assumed", style="bold", markup=False)
        for line in plan.assumptions:
            out.print(f"- {line}", markup=False)


def print_expert_phases(plan: ExpertPhasesPlan, seconds: float | None = None) -> None:
    """Print the view of every phase, then what they come to together."""
    out = console()
    for phase, part in plan.phases.items():
        out.print(f"Phase {phase}", style="bold", markup=False)
        print_expert_plan(part)
        out.print("")
    took = f", {duration(seconds)}" if seconds is not None else ""
    best = plan.optimality
    out.print(f"All phases {best.value:.6g} on average, certified gap {percent(best.gap)}{took}", markup=False)
    for other in plan.alternatives:
        out.print(f"Instead    {other.label}: {other.value:.6g} ({other.why})", markup=False)


def _row(score: WorkloadScore) -> tuple[str, ...]:
    name = PurePath(score.workload).name + (" (held out)" if score.held_out else "")
    ratios = (score.load_ratio, score.load_ratio_p95, score.load_ratio_worst)
    rest = (score.traffic, score.hops_per_token, score.heaviest_pair, score.fanout_gpus, score.fanout_nodes)
    return (
        name,
        f"{score.tokens:.6g}",
        *(f"{ratio:.4f}" for ratio in ratios),
        *("-" if value is None else f"{value:.4g}" for value in rest),
    )

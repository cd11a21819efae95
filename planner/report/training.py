"""The terminal view of a training plan: what to run, what it takes, why, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from ..plan.base import Term
from ..plan.frontier import Robustness
from ..plan.training import TrainingPlan
from .objectives import BETTER, NAMES, objective_text
from .text import console, count, duration, gigabytes, percent, si, table

if TYPE_CHECKING:
    from rich.console import Console

_MAX_STAGES_SHOWN = 16


def print_training_plan(plan: TrainingPlan, seconds: float | None = None) -> None:
    """Print the whole view; `seconds` is how long planning took."""
    out = console()
    job, prediction = plan.job, plan.prediction
    out.print(f"{plan.model} on {plan.cluster}", style="bold", markup=False)
    out.print(
        f"{count(job.gbs)} sequences of {count(job.sequence_length)} tokens a step, {job.precision}, {job.optimizer}\n",
        markup=False,
    )
    out.print(f"Strategy   {plan.strategy.label()}", markup=False)
    out.print(
        f"Step       {duration(prediction.step_s)}, {count(round(prediction.tokens_per_s_per_device))} tokens/s per "
        f"device, {si(prediction.model_flops_per_s_per_device, 'FLOP/s')} per device, MFU {percent(prediction.mfu)}",
        markup=False,
    )
    for line in _spending(plan):
        out.print(line, markup=False)
    out.print(f"Proof      {_proof(plan, seconds)}", markup=False)
    if plan.robustness is not None:
        out.print(f"Safety     {_safety(plan.robustness)}", markup=False)
    out.print("")
    out.print(_times(plan))
    out.print(_memory(plan))
    if len(plan.stages) > 1:
        out.print(_stages(plan))
    if plan.links:
        out.print(_terms("Links", plan.links))
    if plan.alternatives:
        objective = plan.job.objective
        rows = ((each.label, objective_text(objective, each.value), each.why) for each in plan.alternatives)
        out.print(table("Next best", ("strategy", NAMES[objective], "why"), rows))
    _print_list(out, "Assumed", plan.assumptions)


def _proof(plan: TrainingPlan, seconds: float | None) -> str:
    best = plan.optimality
    took = f" in {duration(seconds)}" if seconds is not None else ""
    if best.candidates == 1:
        return "one given strategy, nothing searched"
    better = BETTER[plan.job.objective]
    of = f"of {best.covers} " if best.covers else ""
    claim = f"{of}no legal strategy is {_more(best.gap)}{better} under the model"
    if best.beyond is not None:
        claim += f"; of {best.beyond.covers} none is {_more(best.beyond.gap)}{better}"
    return f"{claim}; {count(best.candidates)} candidates{took}"


def _more(gap: float) -> str:
    return "" if gap == 0.0 else f"more than {percent(gap, 2)} "


def _spending(plan: TrainingPlan) -> list[str]:
    """Dollars and energy of a step, and of the whole token budget, as far as known."""

    def spent(usd: float | None, joules: float | None) -> list[str]:
        return [
            *([] if usd is None else [objective_text("usd", usd)]),
            *([] if joules is None else [objective_text("energy_j", joules)]),
        ]

    made = plan.prediction
    lines = []
    if spent(made.usd, made.energy_j):
        lines.append("Spends     " + ", ".join(spent(made.usd, made.energy_j)) + " a step")
    if made.campaign is not None:
        whole = [f"{made.campaign.days:.3g} days", *spent(made.campaign.usd, made.campaign.energy_j)]
        lines.append(f"Budget     {count(made.campaign.steps)} steps: " + ", ".join(whole))
    return lines


def _safety(made: Robustness) -> str:
    text = (
        f"with every bandwidth off by up to {percent(made.spread, 0)} on its own, nothing beats it in {made.best_in} "
        f"of {made.samples} samples; regret against {made.rivals_considered} others "
        f"{percent(made.mean_regret, 2)} in the mean, {percent(made.worst_regret, 2)} at worst; "
        f"rank {made.mean_rank:.1f} in the mean, {made.worst_rank} at worst"
    )
    if made.order_regret is not None:
        text += f"; {percent(made.order_regret, 2)} of it for the order of its own devices"
    rival = made.rivals[0] if made.rivals else None
    return text + (f"; else {rival.label}, best in {rival.wins}" if rival else "")


def _times(plan: TrainingPlan) -> object:
    step = plan.prediction.step_s
    rows = [
        (term.name, duration(term.value), percent(term.value / step), term.why)
        for term in plan.breakdown
        if term.value > 0
    ]
    return table("Where the step's time goes", ("part", "time", "share", "why"), rows)


def _memory(plan: TrainingPlan) -> object:
    usable = plan.capacity_bytes * (1 - plan.job.memory_margin)
    fullest = max(plan.memory, key=lambda stage: stage.total_bytes)
    rows = [
        (name, gigabytes(size), plan.memory_sources.get(name, ""))
        for name, size in sorted(fullest.categories.items(), key=lambda item: -item[1])
        if size > 0
    ]
    rows.append(("total", gigabytes(fullest.total_bytes), f"of {gigabytes(usable)} usable, {_spread(plan)}"))
    title = f"Memory of the fullest device (pipeline rank {fullest.pipeline_rank})"
    return table(title, ("category", "bytes", "why"), rows)


def _spread(plan: TrainingPlan) -> str:
    least = min(stage.total_bytes for stage in plan.memory)
    margin = percent(plan.job.memory_margin, 0)
    return f"{gigabytes(plan.capacity_bytes)} less {margin} margin; emptiest rank {gigabytes(least)}"


def _stages(plan: TrainingPlan) -> object:
    """Virtual stages, runs of equal ones folded when there are many."""
    rows: list[tuple[str, str, str, str]] = []
    folded = len(plan.stages) > _MAX_STAGES_SHOWN
    numbered = list(enumerate(plan.stages))
    for _, group in groupby(numbered, key=lambda item: (item[1].layers, item[1].holds, None if folded else item[0])):
        members = list(group)
        (first, stage), (last, final) = members[0], members[-1]
        end = final.first_layer + final.layers
        ranks = f"{stage.pipeline_rank}" if first == last else f"{stage.pipeline_rank} … {final.pipeline_rank}"
        name = f"{first}" if first == last else f"{first} … {last}"
        span = f"{stage.first_layer} … {end - 1}" if end > stage.first_layer else "none"
        each = f"{stage.layers}" + ("" if first == last else " each")
        rows.append((name, ranks, each, " ".join((span, *stage.holds))))
    return table("Stages in chain order", ("stage", "pipeline rank", "layers", "what"), rows)


def _terms(title: str, terms: Iterable[Term]) -> object:
    rows = ((term.name, _value(term), term.why) for term in terms)
    return table(title, ("what", "value", "why"), rows)


def _value(term: Term) -> str:
    return duration(term.value) if term.unit == "s" else si(term.value, term.unit)


def _print_list(out: Console, title: str, sentences: Iterable[str]) -> None:
    lines = list(sentences)
    if lines:
        out.print(f"{title}", style="bold", markup=False)
        for line in lines:
            out.print(f"- {line}", markup=False)

"""What the exporters of expert placements share: slots in order, and a comparison of the output with the plan."""

from __future__ import annotations

from ..errors import InputError, InvalidPlan
from ..plan.experts import ExpertPlan
from .base import Context

Slots = list[list[int]]
Holders = list[list[list[int]]]


def expert_plan(context: Context) -> ExpertPlan:
    """The plan, which is one of experts."""
    assert isinstance(context.plan, ExpertPlan)
    return context.plan


def slots_of(plan: ExpertPlan, launcher: str) -> Slots:
    """The expert in every slot, one row per layer, GPU by GPU and ascending within one.

    Raises InputError when GPUs have different numbers of slots or some stay empty, which no engine can load.
    """
    if len(set(plan.slots)) != 1:
        raise InputError(f"export: {launcher} needs as many experts on every GPU but the plan has {_span(plan.slots)}")
    rows = []
    for layer, row in enumerate(plan.placement):
        on_gpu: Slots = [[] for _ in range(plan.gpus)]
        for expert, gpus in enumerate(row):
            for gpu in gpus:
                on_gpu[gpu].append(expert)
        short = [gpu for gpu, held in enumerate(on_gpu) if len(held) != plan.slots[gpu]]
        if short:
            raise InputError(
                f"export: {launcher} fills every slot but GPU {short[0]} has {len(on_gpu[short[0]])} experts "
                f"in {plan.slots[short[0]]} slots of layer {layer}; plan with --redundant that fills them"
            )
        rows.append([expert for held in on_gpu for expert in held])
    return rows


def holders_of(slots: Slots, gpus: int, experts: int) -> Holders:
    """The GPUs of every expert, from the expert in every slot."""
    out: Holders = []
    for row in slots:
        held: list[list[int]] = [[] for _ in range(experts)]
        each = len(row) // gpus
        for slot, expert in enumerate(row):
            held[expert].append(slot // each)
        out.append([sorted(gpus_) for gpus_ in held])
    return out


def compare(plan: ExpertPlan, layers: tuple[int, ...], read: Holders, launcher: str) -> None:
    """Raise InvalidPlan when what was read back from an export is not what the plan says."""
    wanted = [[sorted(gpus) for gpus in plan.placement[layer]] for layer in layers]
    if read != wanted:
        raise InvalidPlan(f"export: what was written for {launcher} does not read back as the plan")


def _span(values: tuple[int, ...]) -> str:
    return f"{min(values)} to {max(values)}"

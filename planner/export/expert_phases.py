"""The placements of several phases: each phase's files under its own name, or one phase's alone."""

from __future__ import annotations

from ..errors import InputError
from ..plan.expert_phases import ExpertPhasesPlan
from .base import Context, Export, Exporter


def export_phases(plan: ExpertPhasesPlan, chosen: Exporter, phase: str | None) -> Export:
    """The files of `phase`, or of all phases. Raises InputError when the plan has no such phase."""
    if phase is not None and phase not in plan.phases:
        raise InputError(f"phase must be one of {', '.join(plan.phases)} but got {phase!r}")
    if phase is not None:
        return chosen(Context(plan.phases[phase], None, None))
    text: list[str] = []
    files: dict[str, str] = {}
    notes: list[str] = []
    for name, part in plan.phases.items():
        made = chosen(Context(part, None, None))
        text.append(f"==> {name} <==\n{made.text}")
        files |= {f"{name}-{file}": content for file, content in made.files.items()}
        for note in made.cannot_express:
            for file in sorted(made.files, key=len, reverse=True):
                note = note.replace(file, f"{name}-{file}")
            notes.append(f"{name}: {note}")
    return Export("\n".join(text), files, tuple(notes))

"""torchrun: one command a host, with static rendezvous."""

from __future__ import annotations

from .base import Context, Export
from .folder import program_files, readme, start_scripts
from .hosts import hosts, program_notes, refuse_techniques, training_plan

_NOTES = (
    "torchrun only starts ranks: the program must build the plan's groups itself, for which it may import "
    "shardwright_plan (device mesh, stages and batch out of plan.json)",
)


class Torchrun:
    """PyTorch's launcher. Its c10d rendezvous ignores the node rank, so the static one is used."""

    name = "torchrun"
    kinds = ("training",)
    validated_with = "torch 2.13.0"

    def __call__(self, context: Context) -> Export:
        """A start script for every host, which takes the program and its arguments."""
        refuse_techniques(training_plan(context).strategy, self.name)
        ordered = hosts(context, self.name)
        scripts = start_scripts(context, ordered)
        notes = (*_NOTES, *program_notes(context))
        steps = (
            "Copy this folder to every host.",
            "On each host of the table run `sh node-N.sh PROGRAM ARGUMENTS`, N being its order; all wait for order 0.",
            "MASTER_ADDR and MASTER_PORT replace the name and port of order 0 where hosts reach it by another.",
        )
        files = {
            **scripts,
            **program_files(context),
            "README.md": readme("Start with torchrun", steps, ordered, notes),
        }
        return Export(text="\n".join(scripts.values()), files=files, cannot_express=notes)

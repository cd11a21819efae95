"""Open MPI: a rankfile that names the host of every rank."""

from __future__ import annotations

from .base import Context, Export
from .folder import program_files, rank_table, rank_wrapper, readme
from .hosts import places, plain_name, program_notes, refuse_techniques, training_plan

_NOTES = (
    "a rankfile binds every rank to one core of its host, the n-th to the n-th; add cores in `rankfile` (slot=0-7) "
    "for programs with threads",
)


class OpenMpi:
    """mpirun. The rank is OMPI_COMM_WORLD_RANK."""

    name = "openmpi"
    kinds = ("training",)
    validated_with = "openmpi 4.1.4"

    def __call__(self, context: Context) -> Export:
        """The rankfile, what each rank sees, and the command."""
        where, topology = places(context), context.topology
        assert topology is not None
        refuse_techniques(training_plan(context).strategy, self.name)
        names = [plain_name(topology.node_names[node], self.name) for node, _ in where]
        counts: dict[str, int] = {}
        lines = []
        for rank, name in enumerate(names):
            lines.append(f"rank {rank}={name} slot={counts.get(name, 0)}\n")
            counts[name] = counts.get(name, 0) + 1
        start = "\n".join(
            [
                "#!/bin/sh",
                "set -eu",
                'here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)',
                f'exec mpirun -np {len(names)} --hostfile "$here/hostfile" --rankfile "$here/rankfile" '
                "${MPIRUN_OPTIONS:-} "
                'sh "$here/rank.sh" "$@"',
                "",
            ]
        )
        notes = (*_NOTES, *program_notes(context))
        steps = (
            "Copy this folder to the same place on every host.",
            "On any of them run `sh start.sh PROGRAM ARGUMENTS`; mpirun starts all ranks at once.",
        )
        files = {
            "start.sh": start,
            "rankfile": "".join(lines),
            "hostfile": "".join(f"{name} slots={count}\n" for name, count in counts.items()),
            "ranks.txt": rank_table(context, names, where),
            "rank.sh": rank_wrapper("OMPI_COMM_WORLD_RANK"),
            "README.md": readme("Start with Open MPI", steps, notes=notes),
            **program_files(context),
        }
        return Export(text="".join(lines), files=files, cannot_express=notes)

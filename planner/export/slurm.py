"""Slurm: a batch script that puts every rank on its host by an arbitrary distribution."""

from __future__ import annotations

from .base import Context, Export
from .folder import PORT, object_name, program_files, rank_table, rank_wrapper, readme
from .hosts import places, plain_name, program_notes, refuse_techniques, training_plan

_NOTES = ("partition, account and time limit are yours to give (sbatch --partition … job.sh PROGRAM ARGUMENTS)",)


class Slurm:
    """sbatch and srun. The rank is SLURM_PROCID: the node id stays alphabetical under an arbitrary distribution."""

    name = "slurm"
    kinds = ("training",)
    validated_with = "slurm 22.05.8"

    def __call__(self, context: Context) -> Export:
        """The batch script, the host of every rank, and what each rank sees."""
        plan, where, topology = training_plan(context), places(context), context.topology
        assert topology is not None
        refuse_techniques(plan.strategy, self.name)
        names = [plain_name(topology.node_names[node], self.name) for node, _ in where]
        nodes = list(dict.fromkeys(names))
        most = max(names.count(name) for name in nodes)
        job = "\n".join(
            [
                "#!/bin/bash",
                f"#SBATCH --job-name={object_name(plan.model)}",
                f"#SBATCH --nodes={len(nodes)}",
                f"#SBATCH --ntasks={len(names)}",
                f"#SBATCH --nodelist={','.join(nodes)}",
                f"#SBATCH --gpus-per-node={most}",
                "#SBATCH --exclusive",
                "set -eu",
                'cd -- "${SLURM_SUBMIT_DIR:?submit this script with sbatch from its own folder}"',
                'export SLURM_HOSTFILE="$PWD/hostfile"',
                f'export MASTER_PORT="${{MASTER_PORT:-{PORT}}}"',
                f'exec srun --distribution=arbitrary --nodes={len(nodes)} --ntasks={len(names)} sh ./rank.sh "$@"',
                "",
            ]
        )
        notes = (*_NOTES, *program_notes(context))
        steps = (
            "Copy this folder to a file system that every host sees, and go into it.",
            "Run `sbatch job.sh PROGRAM ARGUMENTS`; Slurm starts all ranks at once.",
        )
        files = {
            "job.sh": job,
            "hostfile": "".join(f"{name}\n" for name in names),
            "ranks.txt": rank_table(context, names, where),
            "rank.sh": rank_wrapper("SLURM_PROCID"),
            "README.md": readme("Start with Slurm", steps, notes=notes),
            **program_files(context),
        }
        return Export(text=job, files=files, cannot_express=notes)

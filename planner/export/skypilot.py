"""SkyPilot: a task that gives its hosts the ranks of the plan."""

from __future__ import annotations

from ..errors import InputError
from .base import Context, Export
from .folder import PORT, object_name, program_files, readme, yaml_text
from .hosts import accelerator_family, hosts, program_notes, refuse_techniques, training_plan

_NOTES = (
    "SkyPilot numbers its hosts itself: its n-th host plays the topology's n-th node",
    "setup commands and the program (PROGRAM in envs) are yours to give",
)
_RUN = """\
set -eu
ORDER=($PLAN_NODE_ORDER)
DEVICES=($PLAN_DEVICES)
NODE=${ORDER[$SKYPILOT_NODE_RANK]}
FIRST=$(echo "$SKYPILOT_NODE_IPS" | sed -n "${PLAN_FIRST_NODE}p")
export CUDA_VISIBLE_DEVICES=${DEVICES[$SKYPILOT_NODE_RANK]}
export SHARDWRIGHT_PLAN="$PWD/plan.json"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
torchrun --nnodes="$SKYPILOT_NUM_NODES" --nproc-per-node="$PLAN_RANKS_PER_NODE" --node-rank="$NODE" \\
  --rdzv-backend=static --master-addr="$FIRST" --master-port="$MASTER_PORT" "$PROGRAM"
"""


class SkyPilot:
    """`sky launch`."""

    name = "skypilot"
    kinds = ("training",)
    validated_with = "skypilot 0.14.1"

    def __call__(self, context: Context) -> Export:
        """`task.yaml`. Raises InputError when the plan leaves nodes of its topology idle."""
        refuse_techniques(training_plan(context).strategy, self.name)
        ordered, topology = hosts(context, self.name), context.topology
        assert topology is not None
        if len(ordered) != topology.n_nodes:
            raise InputError(
                f"export: skypilot starts every node it rents, but this plan uses {len(ordered)} of {topology.n_nodes}"
            )
        order = {host.node: index for index, host in enumerate(ordered)}
        devices = {host.node: ",".join(map(str, host.devices)) for host in ordered}
        per_node = topology.n_devices // topology.n_nodes
        document = {
            "name": object_name(training_plan(context).model),
            "num_nodes": len(ordered),
            "workdir": ".",
            "resources": {"accelerators": f"{accelerator_family(context)}:{per_node}", "network_tier": "best"},
            "envs": {
                "MASTER_PORT": str(PORT),
                "PLAN_NODE_ORDER": " ".join(str(order[node]) for node in range(topology.n_nodes)),
                "PLAN_DEVICES": " ".join(devices[node] for node in range(topology.n_nodes)),
                "PLAN_FIRST_NODE": str(ordered[0].node + 1),
                "PLAN_RANKS_PER_NODE": str(len(ordered[0].devices)),
                "PROGRAM": "train.py",
            },
            "run": _RUN,
        }
        text = yaml_text(document)
        notes = (*_NOTES, *program_notes(context))
        steps = (
            "Go into this folder.",
            "Run `sky launch task.yaml --env PROGRAM=train.py`; SkyPilot starts all hosts.",
        )
        files = {
            "task.yaml": text,
            "README.md": readme("Start with SkyPilot", steps, ordered, notes),
            **program_files(context),
        }
        return Export(text=text, files=files, cannot_express=notes)

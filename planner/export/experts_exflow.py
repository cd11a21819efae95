"""ExFlow: its solver's solution table, one line per expert counted through all layers."""

from __future__ import annotations

import csv
import io

from ..errors import InputError
from .base import Context, Export
from .experts_slots import Holders, compare, expert_plan

FILE = "exflow_solution.csv"


class ExFlow:
    """CSV `Expert,Node`: expert e of the n-th layer with experts is n · experts + e, a node is a GPU."""

    name = "exflow"
    kinds = ("experts",)
    validated_with = "the form of ExFlow's solution table; not yet loaded by it"

    def __call__(self, context: Context) -> Export:
        """The table, read back and compared. Raises InputError for copies, which ExFlow has no word for."""
        plan = expert_plan(context)
        lines = ["Expert,Node"]
        for number, layer in enumerate(plan.moe_layers):
            for expert, gpus in enumerate(plan.placement[layer]):
                if len(gpus) != 1:
                    raise InputError(
                        f"export: exflow holds one copy of each expert but expert {expert} of layer {layer} "
                        f"is on GPUs {list(gpus)}"
                    )
                lines.append(f"{number * plan.experts + expert},{gpus[0]}")
        text = "\n".join([*lines, ""])
        compare(plan, plan.moe_layers, read(text, plan.experts), self.name)
        return Export(text, {FILE: text})


def read(text: str, experts: int) -> Holders:
    """The GPU of every expert, layer by layer."""
    nodes = {int(row["Expert"]): int(row["Node"]) for row in csv.DictReader(io.StringIO(text))}
    flat = [[nodes[index]] for index in sorted(nodes)]
    return [flat[start : start + experts] for start in range(0, len(flat), experts)]

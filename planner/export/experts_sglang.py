"""SGLang: `--init-expert-location`, the expert in every slot of every layer."""

from __future__ import annotations

import json

from .base import Context, Export
from .experts_slots import Holders, compare, expert_plan, holders_of, slots_of

FILE = "init_expert_location.json"


class SglangExperts:
    """A JSON object with only `physical_to_logical_map`; GPU = slot // slots per GPU, dense layers included."""

    name = "sglang-experts"
    kinds = ("experts",)
    validated_with = "the form of `--init-expert-location`; not yet loaded by an engine"

    def __call__(self, context: Context) -> Export:
        """The map, read back and compared."""
        plan = expert_plan(context)
        text = json.dumps({"physical_to_logical_map": slots_of(plan, self.name)}) + "\n"
        compare(plan, tuple(range(len(plan.placement))), read(text, plan.gpus, plan.experts), self.name)
        note = f"start the server with --init-expert-location {FILE} --ep-num-redundant-experts {plan.redundant}"
        return Export(text, {FILE: text}, (note,))


def read(text: str, gpus: int, experts: int) -> Holders:
    """The GPUs of every expert in every layer of the file."""
    return holders_of(json.loads(text)["physical_to_logical_map"], gpus, experts)

"""vLLM: the expert in every slot of the layers that have experts, as its load balancer holds them."""

from __future__ import annotations

import json

from .base import Context, Export
from .experts_slots import Holders, compare, expert_plan, holders_of, slots_of

FILE = "initial_expert_map.json"


class VllmExperts:
    """A JSON list, layers that have experts × slots. vLLM has no merged option that loads it."""

    name = "vllm-experts"
    kinds = ("experts",)
    validated_with = "the physical-to-logical map of vLLM's load balancer; not yet loaded by an engine"

    def __call__(self, context: Context) -> Export:
        """The map, read back and compared."""
        plan = expert_plan(context)
        slots = slots_of(plan, self.name)
        text = json.dumps([slots[layer] for layer in plan.moe_layers]) + "\n"
        compare(plan, plan.moe_layers, read(text, plan.gpus, plan.experts), self.name)
        notes = (
            "released vLLM has no option that loads a placement: --enable-eplb starts from a linear or round-robin "
            "one; set the map as physical_to_logical_map in your build",
            f"--enable-eplb --eplb-config '{{\"num_redundant_experts\": {plan.redundant}}}' makes as many slots",
        )
        return Export(text, {FILE: text}, notes)


def read(text: str, gpus: int, experts: int) -> Holders:
    """The GPUs of every expert in the layers of the file."""
    return holders_of(json.loads(text), gpus, experts)

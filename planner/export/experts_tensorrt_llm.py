"""TensorRT-LLM: `moe_config.load_balancer`, the expert in every slot of the layers that have experts."""

from __future__ import annotations

from .base import Context, Export
from .experts_slots import Holders, compare, expert_plan, holders_of, slots_of

FILE = "moe_load_balancer.yaml"


class TensorRtLlmExperts:
    """YAML with `initial_global_assignments: {layer: [expert per slot]}`, `num_slots` and no updates while serving."""

    name = "tensorrt-llm-experts"
    kinds = ("experts",)
    validated_with = "the form of moe_config.load_balancer; not yet loaded by an engine"

    def __call__(self, context: Context) -> Export:
        """The assignments, read back and compared."""
        plan = expert_plan(context)
        slots = slots_of(plan, self.name)
        lines = ["initial_global_assignments:"]
        lines += [f"  {layer}: [{', '.join(map(str, slots[layer]))}]" for layer in plan.moe_layers]
        lines += ["layer_updates_per_iter: 0", f"num_slots: {sum(plan.slots)}", ""]
        text = "\n".join(lines)
        compare(plan, plan.moe_layers, read(text, plan.gpus, plan.experts), self.name)
        return Export(text, {FILE: text}, (f"name {FILE} as moe_config.load_balancer of the engine's options",))


def read(text: str, gpus: int, experts: int) -> Holders:
    """The GPUs of every expert in the layers of the file, in the file's order."""
    import yaml

    table = yaml.safe_load(text)["initial_global_assignments"]
    return holders_of([table[layer] for layer in table], gpus, experts)

"""vLLM-Ascend: `expert_map_path`, the experts on every device of every layer that has experts."""

from __future__ import annotations

import json

from .base import Context, Export
from .experts_slots import Holders, compare, expert_plan, holders_of, slots_of

FILE = "expert_map.json"


class VllmAscendExperts:
    """JSON with `moe_layer_count` and, per layer counted from its first with experts, `device_list`."""

    name = "vllm-ascend-experts"
    kinds = ("experts",)
    validated_with = "the form of expert_map_path; not yet loaded by an engine"

    def __call__(self, context: Context) -> Export:
        """The map, read back and compared."""
        plan = expert_plan(context)
        slots, each = slots_of(plan, self.name), plan.slots[0]
        layers = []
        for number, layer in enumerate(plan.moe_layers):
            devices = [
                {"device_id": gpu, "device_expert": slots[layer][gpu * each : (gpu + 1) * each]}
                for gpu in range(plan.gpus)
            ]
            layers.append({"layer_id": number, "device_count": plan.gpus, "device_list": devices})
        text = json.dumps({"moe_layer_count": len(layers), "layer_list": layers}) + "\n"
        compare(plan, plan.moe_layers, read(text, plan.experts), self.name)
        return Export(text, {FILE: text}, (f"name {FILE} as expert_map_path of the engine's additional config",))


def read(text: str, experts: int) -> Holders:
    """The GPUs of every expert in the layers of the file."""
    layers = sorted(json.loads(text)["layer_list"], key=lambda layer: int(layer["layer_id"]))
    slots, gpus = [], 1
    for layer in layers:
        devices = sorted(layer["device_list"], key=lambda device: int(device["device_id"]))
        gpus = len(devices)
        slots.append([expert for device in devices for expert in device["device_expert"]])
    return holders_of(slots, gpus, experts)

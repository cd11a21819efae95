"""Every legal layout of one copy of a model on one kind of device."""

from __future__ import annotations

from shardwright.models import ModelGraph
from shardwright.models.operators import Attention, Experts, Linear

from ..costs.serving.communication import Fabric
from ..costs.serving.shapes import check_layout, has_experts
from ..errors import InputError
from ..workload.serving_layout import Layout, LayoutConstraints

LONG_PROMPT = 32_768


def layouts(
    model: ModelGraph, fabric: Fabric, devices: int, isl: float, constraints: LayoutConstraints
) -> tuple[Layout, ...]:
    """Layouts of at most `devices` devices that the model divides into, smallest first.

    tp stays inside a scale-up domain, and so does a stage that is followed by another; a stage that spans domains
    takes whole ones and routes tokens over them (wide ep). Context parallelism is tried for long prompts only, unless
    it is asked for.
    """
    dividing: dict[tuple[int, int, int], bool] = {}
    found: set[Layout] = set()
    for layout in _candidates(model, fabric, devices, isl, constraints):
        degrees = (layout.tp, layout.ep, layout.moe_tp)
        if degrees not in dividing:
            dividing[degrees] = _fits(model, layout)
        if dividing[degrees] and constraints.allow(layout):
            found.add(layout)
    return tuple(sorted(found, key=lambda each: (each.devices, each.pp, each.attn_dp, each.cp, each.ep)))


def _candidates(
    model: ModelGraph, fabric: Fabric, devices: int, isl: float, constraints: LayoutConstraints
) -> list[Layout]:
    domain = fabric.domain_devices
    routed = has_experts(model)
    found: list[Layout] = []
    context = constraints.cp or ((1, 2, 4, 8) if isl >= LONG_PROMPT else (1,))
    for tp in _divisors(_heads(model), min(domain, devices)):
        for cp in context:
            for attn_dp in _attention_groups(tp * cp, fabric, devices) if routed else (1,):
                stage = tp * cp * attn_dp
                if stage > devices or (stage > domain and stage % domain):
                    continue
                for pp in _stages(model, fabric, stage, devices):
                    for ep in _divisors(stage, stage) if routed else (1,):
                        moe_tp = stage // ep if routed else 1
                        found.append(Layout(tp=tp, pp=pp, attn_dp=attn_dp, cp=cp, ep=ep, moe_tp=moe_tp))
    return found


def _attention_groups(group: int, fabric: Fabric, devices: int) -> tuple[int, ...]:
    """How many attention groups a stage may have: any that fit a domain evenly, or fill whole domains."""
    domain = fabric.domain_devices
    inside = [count for count in range(1, domain // group + 1) if domain % (count * group) == 0]
    powers = [2**power for power in range(20) if group * 2**power <= domain]
    across = [domain // group * whole for whole in _doublings(devices // domain)] if domain % group == 0 else []
    return tuple(sorted(set(inside) | set(powers) | set(across)))


def _stages(model: ModelGraph, fabric: Fabric, stage: int, devices: int) -> tuple[int, ...]:
    if stage > fabric.domain_devices:
        return (1,)
    most = min(model.num_layers, devices // stage)
    return tuple(count for count in (1, *_doublings(most), 3, 6) if count <= most)


def _fits(model: ModelGraph, layout: Layout) -> bool:
    """Whether heads, experts and widths divide as engines need them to: what tp, ep and moe_tp decide."""
    try:
        check_layout(model, layout)
    except InputError:
        return False
    for block in model.blocks:
        for op in block.operators:
            if isinstance(op, Attention) and not op.latent_features and not _shares(op.kv_heads, layout.tp):
                return False
            if isinstance(op, Linear) and op.split == "row" and op.in_features % layout.tp:
                return False
    return True


def _shares(kv_heads: int, tp: int) -> bool:
    return kv_heads % tp == 0 or tp % kv_heads == 0


def _heads(model: ModelGraph) -> int:
    found = {op.heads for block in model.blocks for op in block.operators if isinstance(op, Attention)}
    smallest = min(found, default=1)
    experts = [op.experts for block in model.blocks for op in block.operators if isinstance(op, Experts)]
    return smallest if found else max(experts, default=1)


def _divisors(number: int, most: int) -> tuple[int, ...]:
    return tuple(each for each in range(1, min(number, most) + 1) if number % each == 0)


def _doublings(most: int) -> tuple[int, ...]:
    return tuple(2**power for power in range(1, 20) if 2**power <= most) + ((1,) if most >= 1 else ())

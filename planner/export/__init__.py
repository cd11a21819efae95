"""Exporters: a validated plan in the form a launcher reads, one launcher a file."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ..errors import InputError, InvalidPlan
from ..inputs import restored_model, restored_topology, stale_inputs
from .base import Context, Export, Exporter

if TYPE_CHECKING:
    from ..plan.base import PlanBase

__all__ = ["Context", "Export", "Exporter", "export_plan", "exporter", "list_exporters"]

ENTRY_POINT_GROUP = "shardwright.exporters"
_BUILT_IN = {
    "accelerate": ".accelerate:Accelerate",
    "deepspeed": ".deepspeed:DeepSpeed",
    "dynamo": ".dynamo:Dynamo",
    "exflow": ".experts_exflow:ExFlow",
    "fleet-kubernetes": ".fleet_kubernetes:FleetKubernetes",
    "fleet-routing": ".fleet_routing:FleetRouting",
    "fleet-skypilot": ".fleet_skypilot:FleetSkyPilot",
    "jobset": ".kubernetes:JobSet",
    "kserve": ".kserve:KServe",
    "leaderworkerset": ".leaderworkerset:LeaderWorkerSets",
    "llm-d": ".llm_d:LlmD",
    "megatron": ".megatron:Megatron",
    "megatron-bridge": ".megatron_bridge:MegatronBridge",
    "openmpi": ".openmpi:OpenMpi",
    "ray-serve": ".ray_serve:RayServe",
    "sglang": ".sglang:Sglang",
    "sglang-experts": ".experts_sglang:SglangExperts",
    "skypilot": ".skypilot:SkyPilot",
    "slurm": ".slurm:Slurm",
    "torchrun": ".torchrun:Torchrun",
    "torchtitan": ".torchtitan:Torchtitan",
    "tensorrt-llm": ".tensorrt_llm:TensorRtLlm",
    "tensorrt-llm-experts": ".experts_tensorrt_llm:TensorRtLlmExperts",
    "trainjob": ".kubernetes:TrainJob",
    "vllm": ".vllm:Vllm",
    "vllm-ascend-experts": ".experts_vllm_ascend:VllmAscendExperts",
    "vllm-experts": ".experts_vllm:VllmExperts",
}


def list_exporters() -> tuple[str, ...]:
    """Names of the built-in exporters and of those installed by third parties."""
    return tuple(sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))}))


def exporter(name: str) -> Exporter:
    """The exporter of a launcher. Raises InputError when there is none of that name."""
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        made: Exporter = getattr(import_module(module, __name__), attribute)()
        return made
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            third_party: Exporter = entry.load()()
            return third_party
    raise InputError(f"export: no exporter {name!r}; there are {', '.join(list_exporters())}")


def _refuse_unfit(plan: PlanBase) -> None:
    """Raises InvalidPlan for a training plan that its devices cannot hold, as an estimate may be."""
    for stage in getattr(plan, "memory", ()) if plan.__struct_config__.tag == "training" else ():
        if stage.total_bytes > stage.capacity_bytes:
            raise InvalidPlan(
                f"plan: pipeline rank {stage.pipeline_rank} holds {stage.total_bytes} bytes but its smallest device "
                f"has {stage.capacity_bytes}; plan with `shardwright train`"
            )


def export_plan(plan: PlanBase, to: str, phase: str | None = None) -> Export:
    """A plan in a launcher's form, checked first; of a plan of phases, `phase` alone (None: each in files of its own).

    Raises InvalidPlan when the plan does not validate, does not fit its devices or an input has changed since, and
    InputError when the launcher is unknown or cannot run this plan.
    """
    from ..validate import validate_plan

    chosen = exporter(to)
    kind = type(plan).__struct_config__.tag
    phased = kind == "expert_phases" and "experts" in chosen.kinds
    if phase is not None and not phased:
        raise InputError(f"phase: only plans of several expert placements have phases but this is of kind {kind}")
    if kind not in chosen.kinds and not phased:
        raise InputError(f"export: {to} takes {' or '.join(chosen.kinds)} plans but this is one of kind {kind}")
    problems = stale_inputs(plan) + validate_plan(plan)
    if problems:
        raise InvalidPlan(f"plan: {problems[0]}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))
    if phased:
        from ..plan.expert_phases import ExpertPhasesPlan
        from .expert_phases import export_phases

        assert isinstance(plan, ExpertPhasesPlan)
        return export_phases(plan, chosen, phase)
    _refuse_unfit(plan)
    roles = {record.role for record in plan.inputs}
    return chosen(
        Context(
            plan=plan,
            model=restored_model(plan) if "model" in roles else None,
            topology=restored_topology(plan) if "topology" in roles else None,
        )
    )

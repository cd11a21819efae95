"""Megatron-Bridge: overrides, in Hydra's form, of one of its recipes."""

from __future__ import annotations

import re
import shlex

from ..errors import InputError
from ..workload.training import TrainingJob
from .base import Context, Export
from .folder import plan_file, readme, start_scripts
from .hosts import hosts, refuse_unusual, training_plan
from .megatron import connections, layout, memory_modules, needs_layout, supported_optimizer, supported_schedule
from .megatron_hybrid import is_hybrid, layer_pattern

_SHARDING = {2: "optim_grads", 3: "optim_grads_params"}
_MIXED = {
    "bf16": "bf16_mixed",
    "fp16": "fp16_mixed",
    "fp8": "bf16_with_fp8_current_scaling_mixed",
    "fp4": "bf16_with_nvfp4_mixed",
}


class MegatronBridge:
    """NVIDIA's Megatron-Bridge: what comes after the recipe on the command line of its training script."""

    name = "megatron-bridge"
    kinds = ("training",)
    validated_with = "megatron-bridge 0.6.2"

    def __call__(self, context: Context) -> Export:
        """Overrides and a start script for every host that takes the recipe script first."""
        ordered = hosts(context, self.name)
        found = overrides(context)
        scripts = start_scripts(context, ordered, environment=connections(training_plan(context).strategy))
        words = " ".join(shlex.quote(word) for word in found)
        scripts = {name: text.rstrip("\n") + f" \\\n  {words}\n" for name, text in scripts.items()}
        peft = ("the plan trains adapters: choose a recipe with PEFT (LoRA), whose rank and modules stay its own",)
        notes = (
            "the model is the recipe's: choose the recipe of the plan's model",
            "data, tokenizer and checkpoints",
            *(peft if training_plan(context).job.trained == "adapters" else ()),
        )
        steps = (
            "Copy this folder to every host.",
            "On each host of the table run `sh node-N.sh RECIPE_SCRIPT OPTIONS`, N being its order; the script "
            "must pass what follows to process_config_with_overrides.",
        )
        text = "".join(f"{word}\n" for word in found)
        files = {
            "overrides.txt": text,
            **scripts,
            **plan_file(context),
            "README.md": readme("Start with Megatron-Bridge", steps, ordered, notes),
        }
        return Export(text=text, files=files, cannot_express=notes)


def overrides(context: Context) -> list[str]:
    """Overrides of a recipe's ConfigContainer. Raises InputError for what Megatron cannot run."""
    plan = training_plan(context)
    strategy, job = plan.strategy, plan.job
    supported_schedule(strategy, MegatronBridge.name)
    supported_optimizer(job, MegatronBridge.name)
    _refuse_numbers(job)
    if job.precision not in _MIXED:
        raise InputError(f"export: megatron-bridge has no mixed precision {job.precision}; use {', '.join(_MIXED)}")
    values: dict[str, object] = {
        "model.tensor_model_parallel_size": strategy.tp,
        "model.sequence_parallel": strategy.sp,
        "model.pipeline_model_parallel_size": strategy.pp,
        "model.virtual_pipeline_model_parallel_size": strategy.vpp if strategy.vpp > 1 else None,
        "model.context_parallel_size": strategy.cp,
        "model.expert_model_parallel_size": strategy.ep,
        "model.expert_tensor_parallel_size": strategy.etp,
        "model.seq_length": job.sequence_length,
        "dataset.seq_length": job.sequence_length,
        "train.micro_batch_size": strategy.mbs,
        "train.global_batch_size": job.gbs,
        "ddp.use_distributed_optimizer": strategy.zero > 0,
        "optimizer.use_distributed_optimizer": strategy.zero > 0,
        "mixed_precision": _MIXED[job.precision],
    }
    if strategy.cp > 1:
        values["model.cp_comm_type"] = strategy.cp_comm
    if job.trained == "all":
        values["peft"] = None
    stages = list(plan.virtual_stages())
    assert context.model is not None
    if is_hybrid(context.model):
        if strategy.vpp > 1:
            raise InputError("export: megatron-bridge has no virtual stages for hybrids; constrain vpp to 1")
        values["model.hybrid_layer_pattern"] = layer_pattern(context.model, stages)
    elif needs_layout(strategy, stages):
        values["model.pipeline_model_parallel_layout"] = layout(stages)
    if strategy.zero in _SHARDING:
        values["dist.use_megatron_fsdp"] = True
        values["ddp.use_megatron_fsdp"] = True
        values["ddp.data_parallel_sharding_strategy"] = _SHARDING[strategy.zero]
    if strategy.zero and strategy.dp_replicate > 1:
        values["ddp.num_distributed_optimizer_instances"] = strategy.dp_replicate
    values.update(_recomputation(context))
    return [f"{key}={hydra_value(value)}" for key, value in values.items()]


def _refuse_numbers(job: TrainingJob) -> None:
    """Its mixed precisions fix the format of gradients (`grad_reduce_in_fp32`), fp16's to 2 bytes; states are fp32."""
    refuse_unusual(job, MegatronBridge.name, ("trained", "gradient_bytes"))
    kept = 2 if job.precision == "fp16" else 4
    if job.gradient_bytes != kept and job.trained == "all":
        raise InputError(
            f"export: megatron-bridge keeps gradients of {job.precision} in {kept} bytes but got gradient_bytes "
            f"{job.gradient_bytes}; plan with gradient_bytes {kept}"
        )


def _recomputation(context: Context) -> dict[str, object]:
    strategy = training_plan(context).strategy
    if strategy.recompute == "none":
        return {"model.recompute_granularity": None, "model.recompute_method": None, "model.recompute_num_layers": None}
    if strategy.recompute == "full":
        block = strategy.recompute_layers is not None
        return {
            "model.recompute_granularity": "full",
            "model.recompute_method": "block" if block else "uniform",
            "model.recompute_num_layers": strategy.recompute_layers or 1,
        }
    return {"model.recompute_granularity": "selective", "model.recompute_modules": list(memory_modules(context))}


def hydra_value(value: object) -> str:
    """A value as Hydra's override grammar reads it back, quoted where it is not a plain word."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    text = str(value)
    if text.replace("_", "").isalnum():
        return text
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no OmegaConf interpolation
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), plain) + "'"

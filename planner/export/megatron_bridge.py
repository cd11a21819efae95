"""Megatron-Bridge: overrides, in Hydra's form, of one of its recipes."""

from __future__ import annotations

import re
import shlex

from ..errors import InputError
from ..strategy import Strategy
from ..workload.training import TrainingJob
from .base import Context, Export
from .folder import plan_file, readme, start_scripts
from .hosts import hosts, refuse_unusual, training_plan
from .megatron import (
    MUON_NOTES,
    connections,
    context_levels,
    layout,
    memory_modules,
    needs_layout,
    supported_experts,
    supported_optimizer,
    supported_schedule,
)
from .megatron_hybrid import is_hybrid, layer_pattern
from .megatron_numbers import unusual_states

_SHARDING = {2: "optim_grads", 3: "optim_grads_params"}
_MIXED = {
    "bf16": "bf16_mixed",
    "fp16": "fp16_mixed",
    "fp8": "bf16_with_fp8_current_scaling_mixed",
    "fp4": "bf16_with_nvfp4_mixed",
}
# What these are beside 16-bit weights (megatron/bridge/training/mixed_precision.py), to be written out where gradients
# are in other bytes than theirs.
_FIELDS = {
    "bf16": "",
    "fp8": "fp8:hybrid,fp8_recipe:tensorwise,first_last_layers_bf16:true,num_layers_at_start_in_bf16:1,"
    "num_layers_at_end_in_bf16:1,fp8_param_gather:true,",
    "fp4": "fp4:e2m1,fp4_recipe:nvfp4,fp4_param_gather:true,",
}
_DTYPES = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16", "fp8": "torch.uint8"}
_EVEN: dict[str, object] = {
    "model.pipeline_model_parallel_layout": None,
    "model.num_layers_in_first_pipeline_stage": None,
    "model.num_layers_in_last_pipeline_stage": None,
    "model.account_for_embedding_in_pipeline_split": False,
    "model.account_for_loss_in_pipeline_split": False,
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
        tokens = training_plan(context).job.sequence_length
        videos = f"videos whose latents have {tokens} patches each, as planned: their number is that of the data"
        notes = (
            "the model is the recipe's: choose the recipe of the plan's model",
            *((videos,) if is_video(context) else ()),
            "data, tokenizer and checkpoints",
            *(peft if training_plan(context).job.trained == "adapters" else ()),
            *(MUON_NOTES if training_plan(context).job.optimizer == "muon" else ()),
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
    assert context.model is not None
    strategy, job = plan.strategy, plan.job
    supported_schedule(strategy, MegatronBridge.name)
    supported_experts(context.model, strategy, MegatronBridge.name)
    supported_optimizer(strategy, job, MegatronBridge.name)
    refuse_unusual(job, MegatronBridge.name, ("trained", "gradient_bytes", "moment_bytes", "master_weight_bytes"))
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
        "model.fp8_output_proj": False,  # of MXFP8, which no plan names
    }
    if is_video(context):
        values |= _video(context)
    elif any(run.stack == "encoder" for run in context.model.runs):
        # Its T5 has lengths and stages for encoder and decoder each, which a plan has not; others it does not have.
        raise InputError(f"export: megatron-bridge cannot express an encoder stack of {plan.model}")
    if strategy.cp > 1:
        values["model.cp_comm_type"] = strategy.cp_comm
    for levels in context_levels(context.model, strategy):
        values["model.hierarchical_context_parallel_sizes"] = list(levels)
    if job.trained == "all":
        values["peft"] = None
    values |= _stages(context) | _optimizer(strategy, job) | _recomputation(context)
    return [*(f"{key}={hydra_value(value)}" for key, value in values.items()), *_precision(job)]


def is_video(context: Context) -> bool:
    """Whether the model makes videos: Wan, which has layers and data of its own there."""
    assert context.model is not None
    return not context.model.vocab_size


def _video(context: Context) -> dict[str, object]:
    """What Wan's data wants to know beside the rest; it is trained by tp, cp and dp, one micro-batch a video or a pack
    of them (NVIDIA-NeMo/DFM, docs/megatron/recipes/wan/wan2.1.md)."""
    plan = training_plan(context)
    strategy = plan.strategy
    for name, most in (("pp", 1), ("mbs", 1), ("zero", 1)):
        if getattr(strategy, name) > most:
            raise InputError(
                f"export: megatron-bridge trains {plan.model} with {name} of at most {most} but got "
                f"{getattr(strategy, name)}; constrain {name}"
            )
    return {"dataset.micro_batch_size": strategy.mbs, "dataset.global_batch_size": plan.job.gbs}


def _stages(context: Context) -> dict[str, object]:
    """Layers of the stages; a recipe's own way to make them uneven is taken back."""
    plan = training_plan(context)
    assert context.model is not None
    stages = list(plan.virtual_stages())
    if is_hybrid(context.model):
        if plan.strategy.vpp > 1:
            raise InputError("export: megatron-bridge has no virtual stages for hybrids; constrain vpp to 1")
        return {"model.hybrid_layer_pattern": layer_pattern(context.model, stages)}
    if needs_layout(plan.strategy, stages):
        modules = sum(run.repeat for run in context.model.runs if run.block.role == "mtp")
        written = layout(stages)  # which places the prediction modules, as many as the model is told
        return {**_EVEN, "model.pipeline_model_parallel_layout": written, "model.mtp_num_layers": modules or None}
    return _EVEN


def _optimizer(strategy: Strategy, job: TrainingJob) -> dict[str, object]:
    """The optimizer and how its states are kept; muon's are divided layer by layer."""
    muon = job.optimizer == "muon"
    found: dict[str, object] = {
        "optimizer.optimizer": job.optimizer.removesuffix("-momentum"),
        "ddp.use_distributed_optimizer": strategy.zero > 0 and not muon,
        "optimizer.use_distributed_optimizer": strategy.zero > 0 and not muon,
        "optimizer.use_layer_wise_distributed_optimizer": strategy.zero > 0 and muon,
    }
    states = unusual_states(strategy, job, MegatronBridge.name)
    first, second, master = (states.first, states.second, states.master) if states else ("fp32",) * 3
    found |= {
        "optimizer.use_precision_aware_optimizer": states is not None,
        "optimizer.exp_avg_dtype": _DTYPES[first],
        "optimizer.exp_avg_sq_dtype": _DTYPES[second],
        "optimizer.main_params_dtype": _DTYPES[master],
        "optimizer.main_grads_dtype": _DTYPES["bf16" if states and job.gradient_bytes == 2 else "fp32"],
    }
    if job.optimizer == "sgd":
        found["optimizer.sgd_momentum"] = 0.0
    found["dist.use_megatron_fsdp"] = found["ddp.use_megatron_fsdp"] = strategy.zero in _SHARDING
    if strategy.zero in _SHARDING:
        found["ddp.data_parallel_sharding_strategy"] = _SHARDING[strategy.zero]
    found["ddp.num_distributed_optimizer_instances"] = strategy.dp_replicate if strategy.zero else 1
    return found


def _precision(job: TrainingJob) -> list[str]:
    """The mixed precision by its name, or written out where gradients are in other bytes than the named one's.

    Adapters' gradients are not counted, so that theirs stay as they are. Written out it takes a recipe's own away
    first, since Hydra would merge the two.
    """
    if job.precision not in _MIXED:
        raise InputError(f"export: megatron-bridge has no mixed precision {job.precision}; use {', '.join(_MIXED)}")
    if job.trained == "adapters" or job.gradient_bytes == (2 if job.precision == "fp16" else 4):
        return [f"mixed_precision={_MIXED[job.precision]}"]
    if job.gradient_bytes != 2:
        kept = "2" if job.precision == "fp16" else "2 or 4"
        raise InputError(
            f"export: megatron-bridge keeps gradients of {job.precision} in {kept} bytes but got gradient_bytes "
            f"{job.gradient_bytes}; plan with gradient_bytes 2"
        )
    half = "{_target_:torch.bfloat16,_call_:false}"
    fields = f"bf16:true,params_dtype:{half},pipeline_dtype:{half},{_FIELDS[job.precision]}grad_reduce_in_fp32:false"
    target = "megatron.bridge.training.mixed_precision.MixedPrecisionConfig"
    return ["~mixed_precision", f"+mixed_precision={{_target_:{target},{fields}}}"]


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
    modules = list(memory_modules(context, MegatronBridge.name))
    return {"model.recompute_granularity": "selective", "model.recompute_modules": modules}


def hydra_value(value: object) -> str:
    """A value as Hydra's override grammar reads it back, quoted where it is not a plain word."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    text = str(value)
    if text.replace("_", "").isalnum():
        return text
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no OmegaConf interpolation
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), plain) + "'"

"""torchtitan: a configuration function that changes one of its own, and the flags that say the same degrees."""

from __future__ import annotations

from ..errors import InputError
from ..plan.training import TrainingPlan
from ..strategy import Strategy
from ..workload.training import TrainingJob
from .base import Context, Export
from .folder import plan_file, readme, start_scripts
from .hosts import hosts, refuse_techniques, refuse_unusual, training_plan

_BASES = {
    "llama-3-8b": ("llama3", "llama3_8b"),
    "llama-3.1-8b": ("llama3", "llama3_8b"),
    "llama-3-70b": ("llama3", "llama3_70b"),
    "llama-3.1-70b": ("llama3", "llama3_70b"),
    "llama-3.1-405b": ("llama3", "llama3_405b"),
    "qwen3-0.6b": ("qwen3", "qwen3_0_6b"),
    "qwen3-14b": ("qwen3", "qwen3_14b"),
    "qwen3-32b": ("qwen3", "qwen3_32b"),
    "qwen3-30b-a3b": ("qwen3", "qwen3_30b_a3b"),
}
_SCHEDULES = {"1f1b": "1F1B", "interleaved": "Interleaved1F1B", "gpipe": "GPipe", "zb-v": "ZBVZeroBubble"}
_CHECKPOINTING = {"none": "None", "full": "FullAC.Config()", "selective": "SelectiveAC.Config()"}
_MODULE = "shardwright_config"


class Torchtitan:
    """PyTorch's torchtitan trainer, for models that it has a configuration of."""

    name = "torchtitan"
    kinds = ("training",)
    validated_with = "torchtitan 0.3.0"

    def __call__(self, context: Context) -> Export:
        """Flags, `shardwright_config.py` and a start script for every host."""
        plan = training_plan(context)
        ordered = hosts(context, self.name)
        arguments = flags(plan)
        scripts = start_scripts(context, ordered, [("-m", "torchtitan.train"), *arguments])
        notes = ["data, tokenizer, learning rate and checkpoints stay those of torchtitan's own configuration"]
        if plan.strategy.recompute == "selective":
            notes.append("selective recomputation is torchtitan's own choice of operators, not the plan's modules")
        if plan.strategy.zero and plan.strategy.pp > 1:
            notes.append("gathered weights and whole gradients stay for all micro-batches of a step, as zero 1 plans")
        elif plan.strategy.zero == 2:
            notes.append("gathered weights stay until the backward pass ends (fsdp_reshard_after_forward never)")
        steps = (
            "Copy this folder to every host and install torchtitan 0.3 there.",
            "On each host of the table run `sh node-N.sh`, N being its order; more torchtitan flags may follow.",
        )
        text = "".join(" ".join(group) + "\n" for group in arguments)
        files = {
            f"{_MODULE}.py": config_module(plan),
            "torchtitan_flags.txt": text,
            **scripts,
            **plan_file(context),
            "README.md": readme("Start with torchtitan", steps, ordered, notes),
        }
        return Export(text=text, files=files, cannot_express=tuple(notes))


def flags(plan: TrainingPlan) -> list[tuple[str, ...]]:
    """Degrees, batch and schedule. Raises InputError for what torchtitan cannot run."""
    strategy, job = plan.strategy, plan.job
    _refuse(plan)
    replicas, shards = strategy.dp_replicate, strategy.dp_shard
    if strategy.zero == 0:
        replicas, shards = replicas * shards, 1
    local = strategy.mbs * (strategy.microbatches(job.gbs) if strategy.pp > 1 else 1)
    found: list[tuple[str, ...]] = [
        ("--module", _MODULE),
        ("--config", "planned"),
        ("--parallelism.tensor_parallel_degree", str(strategy.tp)),
        ("--parallelism.pipeline_parallel_degree", str(strategy.pp)),
        ("--parallelism.context_parallel_degree", str(strategy.cp)),
        ("--parallelism.data_parallel_replicate_degree", str(replicas)),
        ("--parallelism.data_parallel_shard_degree", str(shards)),
        ("--parallelism.expert_parallel_degree", str(strategy.ep)),
        ("--parallelism.fsdp_reshard_after_forward", "always" if strategy.zero == 3 else "never"),
        ("--training.local_batch_size", str(local)),
        ("--training.global_batch_size", str(job.gbs)),
        ("--training.seq_len", str(job.sequence_length)),
    ]
    if strategy.pp > 1:
        found += [
            ("--parallelism.pipeline_parallel_schedule", _SCHEDULES[strategy.schedule]),
            ("--parallelism.pipeline_parallel_microbatch_size", str(strategy.mbs)),
        ]
    if strategy.pp > 1 or strategy.ep > 1:  # torchtitan 0.3 refuses graphs over a pipeline or a dispatch of any size
        found += [("--training.disable_cuda_graphs",)]
    if strategy.tp > 1 and not strategy.sp:
        found += [("--parallelism.no-enable_sequence_parallel",)]
    return found


def _refuse(plan: TrainingPlan) -> None:
    strategy, job = plan.strategy, plan.job
    refuse_techniques(strategy, "torchtitan")
    refuse_unusual(job, "torchtitan")
    reason = _strategy_reason(strategy) or _job_reason(job)
    if any("m" in extra for _, extra in plan.virtual_stages()):
        reason = reason or "multi-token-prediction modules on stages of their own"
    if any(layers == 0 for layers, _ in plan.virtual_stages()):
        reason = reason or "a stage without layers"
    if plan.model not in _BASES:
        reason = reason or f"the model {plan.model!r}; it has {', '.join(_BASES)}"
    if reason:
        raise InputError(f"export: torchtitan cannot express {reason}")


def _strategy_reason(strategy: Strategy) -> str:
    if strategy.schedule not in _SCHEDULES:
        return f"the {strategy.schedule} schedule; constrain schedule to {', '.join(_SCHEDULES)}"
    if strategy.zero == 1 and strategy.pp == 1 and strategy.dp_shard * strategy.cp > 1:
        return "zero 1 (FSDP2 shards gradients too); constrain zero to 0, 2 or 3"
    if strategy.zero >= 2 and strategy.pp > 1:
        return f"zero {strategy.zero} in a pipeline (it keeps gradients whole until the last micro-batch); use zero 1"
    if strategy.etp > 1:
        return "tensor parallelism inside experts; constrain etp to 1"
    if strategy.recompute_layers is not None:
        return "recomputation of some layers; constrain recompute to none, selective or full"
    if strategy.cp > 1 and strategy.cp_comm != "all_gather":
        # distributed/context_parallel/api.py gathers keys and values, and so does torch where it is left to it.
        return f"context parallelism by {strategy.cp_comm}; constrain cp_comm to all_gather"
    return ""


def _job_reason(job: TrainingJob) -> str:
    if job.optimizer != "adam":
        return f"the optimizer {job.optimizer} in place of its configuration's AdamW"
    if job.precision not in ("bf16", "fp32"):
        return f"{job.precision} by flags (it converts modules in code); constrain precision to bf16"
    return ""


def stage_modules(plan: TrainingPlan) -> list[list[str]]:
    """The names of the modules of every virtual stage, in chain order."""
    found = []
    for stage in plan.stages:
        names = [f"layers.{layer}" for layer in range(stage.first_layer, stage.first_layer + stage.layers)]
        if "embedding" in stage.holds:
            names.insert(0, "tok_embeddings")
        if "head" in stage.holds:
            names += ["norm", "lm_head"]
        found.append(names)
    return found


def config_module(plan: TrainingPlan) -> str:
    """Python source of the configuration function: torchtitan's own configuration with the plan's stages in it."""
    module, function = _BASES[plan.model]
    kind = _CHECKPOINTING[plan.strategy.recompute]
    imported = kind.partition(".")[0]
    lines = ['"""Made by shardwright: torchtitan\'s configuration with the stages of the plan."""', ""]
    if kind != "None":
        lines += [f"from torchtitan.distributed.activation_checkpoint import {imported}"]
    lines += [
        f"from torchtitan.models.{module}.config_registry import {function}",
        "",
        "",
        "def planned():",
        f"    config = {function}()",
        f"    config.activation_checkpoint = {kind}",
        f"    config.training.mixed_precision_param = {'float32' if plan.job.precision == 'fp32' else 'bfloat16'!r}",
    ]
    if plan.strategy.pp > 1:
        stages = ",\n".join(f"        {names!r}" for names in stage_modules(plan))
        lines += [f"    config.parallelism.module_fqns_per_model_part = [\n{stages},\n    ]"]
    return "\n".join([*lines, "    return config", ""])

"""DeepSpeed: its JSON configuration and a hostfile in rank order."""

from __future__ import annotations

import json

from ..errors import InputError
from ..strategy import Strategy
from ..workload.training import TrainingJob
from .base import Context, Export
from .folder import plan_file, readme
from .hosts import hosts, plain_name, refuse_techniques, refuse_unusual, training_plan

_OPTIMIZERS = {"adam": "AdamW"}


class DeepSpeed:
    """The deepspeed launcher and engine."""

    name = "deepspeed"
    kinds = ("training",)
    validated_with = "deepspeed 0.19.8"

    def __call__(self, context: Context) -> Export:
        """`ds_config.json`, `hostfile` and the command that keeps their order."""
        plan = training_plan(context)
        ordered = hosts(context, self.name)
        for host in ordered:
            if list(host.devices) != sorted(host.devices):
                raise InputError(
                    "export: deepspeed sorts the devices of a node, but this plan orders them; use torchrun"
                )
        config = configuration(plan.strategy, plan.job, [layers for layers, _ in plan.virtual_stages()])
        names = [plain_name(host.name, self.name) for host in ordered]
        include = "@".join(
            f"{name}:{','.join(map(str, host.devices))}" for name, host in zip(names, ordered, strict=True)
        )
        start = "\n".join(
            [
                "#!/bin/sh",
                "set -eu",
                'here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)',
                "program=$1",
                "shift",
                f'exec deepspeed --hostfile "$here/hostfile" --include={include} --master_addr={names[0]} '
                '"$program" --deepspeed_config "$here/ds_config.json" "$@"',
                "",
            ]
        )
        text = json.dumps(config, indent=2) + "\n"
        notes = _notes(plan.strategy)
        steps = (
            "Copy this folder to the same place on every host and go into it.",
            "On the first host of the table run `sh start.sh PROGRAM ARGUMENTS`; it reaches the others by ssh.",
        )
        files = {
            "ds_config.json": text,
            "hostfile": "".join(
                f"{name} slots={max(host.devices) + 1}\n" for name, host in zip(names, ordered, strict=True)
            ),
            "start.sh": start,
            "README.md": readme("Start with DeepSpeed", steps, ordered, notes),
            **plan_file(context),
        }
        return Export(text=text, files=files, cannot_express=notes)


def configuration(strategy: Strategy, job: TrainingJob, layers: list[int]) -> dict[str, object]:
    """The engine's configuration. Raises InputError for what DeepSpeed cannot run."""
    _refuse(strategy, job, layers)
    zero: dict[str, object] = {"stage": strategy.zero, "overlap_comm": strategy.zero > 0}
    config: dict[str, object] = {
        "train_batch_size": job.gbs,
        "train_micro_batch_size_per_gpu": strategy.mbs,
        "gradient_accumulation_steps": strategy.microbatches(job.gbs),
        "zero_optimization": zero,
        "optimizer": {"type": _OPTIMIZERS[job.optimizer], "params": {"lr": 1e-4}},
    }
    if job.precision in ("bf16", "fp16"):
        config[job.precision] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": job.precision if job.gradient_bytes == 2 else "fp32"}
    if strategy.tp > 1:
        config["tensor_parallel"] = {"autotp_size": strategy.tp}
    if strategy.cp > 1:
        config["sequence_parallel_size"] = strategy.cp
    if strategy.pp > 1:
        config["pipeline"] = {"stages": strategy.pp, "partition": "uniform"}
    return config


def _refuse(strategy: Strategy, job: TrainingJob, layers: list[int]) -> None:
    refuse_techniques(strategy, "deepspeed")
    refuse_unusual(job, "deepspeed", ("gradient_bytes",))
    reason = ""
    if strategy.schedule not in ("1f1b",):
        reason = f"the {strategy.schedule} schedule; constrain schedule to 1f1b"
    elif strategy.ep > 1 or strategy.etp > 1:
        reason = "expert parallelism by configuration (its ep_size stands in the model's code)"
    elif len(set(layers)) > 1:
        reason = "stages with different numbers of layers"
    elif strategy.pp > 1 and strategy.zero > 1:
        reason = f"zero {strategy.zero} with a pipeline; constrain zero to 0 or 1"
    elif strategy.cp > 1 and strategy.cp_comm != "a2a":
        reason = f"context parallelism by {strategy.cp_comm}; constrain cp_comm to a2a"
    elif strategy.cp > 1 and (strategy.pp > 1 or strategy.tp > 1):
        reason = "sequence parallelism together with tp or pp"
    elif strategy.tp > 1 and strategy.zero == 3:
        reason = "automatic tensor parallelism with zero 3; constrain zero to 2 or less"
    elif strategy.sp:
        reason = "Megatron's sequence parallelism (sp)"
    elif strategy.dp_replicate > 1 and strategy.zero:
        reason = f"zero {strategy.zero} within replicas (MiCS left with 0.19); constrain dp_replicate to 1"
    elif job.precision != "fp32" and job.gradient_bytes not in (2, 4):
        reason = f"gradient_bytes {job.gradient_bytes}; plan with 2 or 4"
    elif strategy.zero == 0 and job.precision in ("bf16", "fp16") and job.gradient_bytes == 4:
        reason = f"fp32 gradients of {job.precision} weights with zero 0; constrain zero to 1 or plan gradient_bytes 2"
    elif job.precision in ("fp8", "fp4"):
        reason = f"{job.precision} training"
    elif job.optimizer not in _OPTIMIZERS:
        reason = f"the optimizer {job.optimizer}; use adam"
    if reason:
        raise InputError(f"export: deepspeed cannot express {reason}")


def _notes(strategy: Strategy) -> tuple[str, ...]:
    notes = ["the learning rate in ds_config.json is a placeholder, and data and model are the program's"]
    if strategy.pp > 1:
        notes.append(f"the program must build PipelineModule(num_stages={strategy.pp}, partition_method='uniform')")
    if strategy.recompute != "none":
        notes.append("recomputation is called in the program (deepspeed.checkpointing), not set in the configuration")
    return tuple(notes)

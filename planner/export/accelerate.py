"""Hugging Face Accelerate: one YAML file a host."""

from __future__ import annotations

from ..errors import InputError
from ..strategy import Strategy
from ..workload.training import TrainingJob
from .base import Context, Export
from .folder import PORT, plan_file, readme, yaml_text
from .hosts import Host, hosts, refuse_techniques, refuse_unusual, training_plan, visible_devices

_ROTATION = {"all_gather": "allgather", "p2p": "alltoall"}


class Accelerate:
    """`accelerate launch` with FSDP2 and a parallelism configuration."""

    name = "accelerate"
    kinds = ("training",)
    validated_with = "accelerate 1.15.0"

    def __call__(self, context: Context) -> Export:
        """A configuration and a start script for every host."""
        plan = training_plan(context)
        ordered = hosts(context, self.name)
        shared = configuration(plan.strategy, plan.job)
        configs = {
            f"accelerate-{index}.yaml": yaml_text(_of_host(shared, ordered, index)) for index in range(len(ordered))
        }
        scripts = {f"node-{index}.sh": _start(context, ordered, index) for index in range(len(ordered))}
        notes = (
            f"gradient accumulation of {plan.strategy.microbatches(plan.job.gbs)} and a micro-batch of "
            f"{plan.strategy.mbs} are the program's to set, as are model and data",
        )
        steps = (
            "Copy this folder to every host.",
            "On each host of the table run `sh node-N.sh PROGRAM ARGUMENTS`, N being its order.",
        )
        files = {
            **configs,
            **scripts,
            **plan_file(context),
            "README.md": readme("Start with Accelerate", steps, ordered, notes),
        }
        return Export(text=configs["accelerate-0.yaml"], files=files, cannot_express=notes)


def configuration(strategy: Strategy, job: TrainingJob) -> dict[str, object]:
    """What all hosts share. Raises InputError for what Accelerate cannot run."""
    _refuse(strategy, job)
    degrees = {
        "parallelism_config_dp_replicate_size": strategy.dp_replicate
        * (strategy.dp_shard if strategy.zero == 0 else 1),
        "parallelism_config_dp_shard_size": strategy.dp_shard if strategy.zero else 1,
        "parallelism_config_cp_size": strategy.cp,
        "parallelism_config_tp_size": strategy.tp,
    }
    found: dict[str, object] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP" if strategy.zero else "MULTI_GPU",
        "downcast_bf16": "no",
        "mixed_precision": "no" if job.precision == "fp32" else job.precision,
        "num_processes": strategy.world_size,
        "rdzv_backend": "static",
        "same_network": True,
        "main_training_function": "main",
    }
    if strategy.zero:
        found["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": strategy.zero == 3,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_activation_checkpointing": strategy.recompute == "full",
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        }
    found["parallelism_config"] = degrees
    if strategy.cp > 1:
        degrees_of_cp = {"parallelism_config_cp_comm_strategy": _ROTATION[strategy.cp_comm]}
        found["parallelism_config"] = {**degrees, **degrees_of_cp}
    return found


def _refuse(strategy: Strategy, job: TrainingJob) -> None:
    refuse_techniques(strategy, "accelerate")
    refuse_unusual(job, "accelerate")
    reason = ""
    if strategy.pp > 1:
        reason = f"a pipeline of {strategy.pp}; constrain pp to 1"
    elif strategy.ep > 1 or strategy.etp > 1:
        reason = "expert parallelism; constrain ep to 1"
    elif strategy.zero == 1 and strategy.dp_shard * strategy.cp > 1:
        reason = "zero 1 (FSDP2 shards gradients too); constrain zero to 0, 2 or 3"
    elif strategy.cp > 1 and strategy.cp_comm not in _ROTATION:
        reason = f"context parallelism by {strategy.cp_comm}; constrain cp_comm to p2p or all_gather"
    elif strategy.zero == 0 and (strategy.cp > 1 or (strategy.tp > 1 and strategy.dp > 1)):
        reason = "tensor or context parallelism in replicas without sharding; constrain zero to 2 or 3"
    elif strategy.sp:
        reason = "sequence parallelism (sp) of a tensor-parallel plan, which is the model's own"
    elif strategy.recompute == "selective" or strategy.recompute_layers is not None:
        reason = "recomputation of parts of the model; constrain recompute to none or full"
    elif strategy.recompute == "full" and strategy.zero == 0:
        reason = "recomputation without FSDP"
    elif job.precision == "fp4":
        reason = "fp4 training"
    if reason:
        raise InputError(f"export: accelerate cannot express {reason}")


def _of_host(shared: dict[str, object], ordered: tuple[Host, ...], index: int) -> dict[str, object]:
    return {
        **shared,
        "machine_rank": index,
        "num_machines": len(ordered),
        "main_process_ip": ordered[0].name,
        "main_process_port": PORT,
    }


def _start(context: Context, ordered: tuple[Host, ...], index: int) -> str:
    variable, value = visible_devices(context, ordered[index].devices)
    return "\n".join(
        [
            "#!/bin/sh",
            "set -eu",
            'here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)',
            'export SHARDWRIGHT_PLAN="$here/plan.json"',
            f"export {variable}={value}",
            f'exec accelerate launch --config_file "$here/accelerate-{index}.yaml" "$@"',
            "",
        ]
    )

"""Megatron-LM: the arguments of `pretrain_gpt.py`, one set for every rank."""

from __future__ import annotations

import shlex
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from shardwright.models.launch import launch_facts

from ..errors import InputError
from ..plan.training import TrainingPlan
from .base import Context, Export
from .megatron_model import Arguments, model_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..strategy import Strategy
    from ..workload.training import TrainingJob

_MODULES = {
    "core_attention": "core_attn",
    "norm": "layernorm",
    "activation": "moe_act",
    "mla_up": "mla_up_proj",
    "mlp": "mlp",
    "experts": "moe",
}
_SHARDING = {2: "optim_grads", 3: "optim_grads_params"}


class Megatron:
    """Megatron-LM's GPT training script."""

    name = "megatron"
    kinds = ("training",)
    validated_with = "megatron-core 0.19.2"

    def __call__(self, context: Context) -> Export:
        """Arguments that rebuild the plan's model, degrees, batch and memory options."""
        plan, model = context.plan, context.model
        assert isinstance(plan, TrainingPlan)
        assert model is not None
        document = next(record.document for record in plan.inputs if record.role == "model")
        facts = launch_facts(document if isinstance(document, dict) else {})
        strategy, job = plan.strategy, plan.job
        arguments = [
            *model_arguments(model, facts, job.sequence_length),
            *parallel_arguments(strategy, plan.virtual_stages()),
            *batch_arguments(strategy, job),
            *memory_arguments(strategy, bool(any(op == "experts" for op in _operator_names(context)))),
            *precision_arguments(job),
        ]
        lines = [" ".join(shlex.quote(word) for word in argument) for argument in arguments]
        hosts = _hosts(context, plan)
        return Export(
            text="\n".join(lines) + "\n",
            files={"megatron_arguments.txt": "\n".join(lines) + "\n", "hosts.txt": "\n".join(hosts) + "\n"},
            cannot_express=(
                "Megatron numbers ranks along tp, cp, ep/dp, pp: start the nodes in the order of hosts.txt",
                "data and checkpoints are yours to add (--data-path, --save, --lr …); the tokenizer stands as "
                "NullTokenizer of the right size",
            ),
        )


def parallel_arguments(strategy: Strategy, virtual_stages: Iterable[tuple[int, str]]) -> Arguments:
    """Degrees, and the pipeline layout where stages are uneven.

    `virtual_stages` gives, in chain order, each virtual stage's number of layers and what else it holds: E embedding,
    m MTP modules, L loss. Raises InputError for a schedule that Megatron-LM does not have.
    """
    if strategy.schedule not in ("1f1b", "interleaved"):
        raise InputError(f"export: megatron has no {strategy.schedule} schedule; constrain schedule to 1f1b")
    found: Arguments = [("--tensor-model-parallel-size", str(strategy.tp))]
    if strategy.sp:
        found += [("--sequence-parallel",)]
    found += [("--pipeline-model-parallel-size", str(strategy.pp))]
    stages = list(virtual_stages)
    if strategy.pp > 1 and (len({layers for layers, _ in stages}) > 1 or any("m" in extra for _, extra in stages)):
        found += [("--pipeline-model-parallel-layout", "|".join(_layout(layers, extra) for layers, extra in stages))]
    elif strategy.vpp > 1:
        found += [("--num-virtual-stages-per-pipeline-rank", str(strategy.vpp))]
    found += [("--context-parallel-size", str(strategy.cp))]
    if strategy.cp > 1:
        found += [("--cp-comm-type", strategy.cp_comm)]
    if strategy.ep > 1 or strategy.etp > 1:
        found += [
            ("--expert-model-parallel-size", str(strategy.ep)),
            ("--expert-tensor-parallel-size", str(strategy.etp)),
        ]
    return found


def _layout(layers: int, extra: str) -> str:
    body = "t" * layers if layers < 2 else f"t*{layers}"
    tail = "".join(letter for letter in extra if letter != "E")
    return ("E" if "E" in extra else "") + body + tail


def batch_arguments(strategy: Strategy, job: TrainingJob) -> Arguments:
    """Micro-batch, global batch, and how data-parallel ranks share the state of training."""
    found: Arguments = [("--micro-batch-size", str(strategy.mbs)), ("--global-batch-size", str(job.gbs))]
    if strategy.zero == 1:
        found += [("--use-distributed-optimizer",), ("--overlap-grad-reduce",), ("--overlap-param-gather",)]
    elif strategy.zero in _SHARDING:
        found += [
            ("--use-megatron-fsdp",),
            ("--use-distributed-optimizer",),
            ("--data-parallel-sharding-strategy", _SHARDING[strategy.zero]),
            ("--overlap-grad-reduce",),
            ("--overlap-param-gather",),
            ("--no-gradient-accumulation-fusion",),
            ("--ckpt-format", "fsdp_dtensor"),
        ]
    else:
        found += [("--overlap-grad-reduce",)]
    if strategy.zero and strategy.dp_replicate > 1:
        found += [("--num-distributed-optimizer-instances", str(strategy.dp_replicate))]
    if job.optimizer not in ("adam", "sgd", "sgd-momentum"):
        raise InputError(f"export: megatron with sharded states has no optimizer {job.optimizer}; use adam or sgd")
    found += [("--optimizer", job.optimizer.removesuffix("-momentum"))]
    if job.optimizer == "sgd":
        found += [("--sgd-momentum", "0.0")]
    return found


def memory_arguments(strategy: Strategy, mixture: bool) -> Arguments:
    """Recomputation. Raises InputError for a module that Megatron-LM cannot recompute on its own."""
    if strategy.recompute == "none":
        return []
    if strategy.recompute == "full":
        how = ("uniform", 1) if strategy.recompute_layers is None else ("block", strategy.recompute_layers)
        return [
            ("--recompute-granularity", "full"),
            ("--recompute-method", how[0]),
            ("--recompute-num-layers", str(how[1])),
        ]
    modules = strategy.recompute_modules or ("core_attention",)
    if "activation" in modules and not mixture:
        raise InputError("export: megatron cannot recompute the activation alone in dense layers; use mlp")
    return [("--recompute-granularity", "selective"), ("--recompute-modules", *(_MODULES[m] for m in modules))]


def precision_arguments(job: TrainingJob) -> Arguments:
    """The number format. Raises InputError for one that Megatron-LM does not train in."""
    formats: dict[str, Arguments] = {
        "fp32": [],
        "fp16": [("--fp16",)],
        "bf16": [("--bf16",)],
        "fp8": [("--bf16",), ("--fp8-format", "hybrid"), ("--fp8-recipe", "tensorwise")],
        "fp4": [("--bf16",), ("--fp4-format", "e2m1"), ("--fp4-recipe", "nvfp4")],
    }
    return formats[job.precision]


def _operator_names(context: Context) -> Iterable[str]:
    assert context.model is not None
    return chain.from_iterable((op.name for op in block.operators) for block in context.model.layer_blocks())


def _hosts(context: Context, plan: TrainingPlan) -> list[str]:
    """Node names in rank order. Raises InputError when a node's ranks are not consecutive."""
    topology = context.topology
    assert topology is not None
    nodes = [int(topology.device_node[device]) for device in plan.rank_to_device]
    order = list(dict.fromkeys(nodes))
    changes = sum(a != b for a, b in pairwise(nodes))
    if changes != len(order) - 1:
        raise InputError("export: megatron numbers ranks node by node, but this plan gives a node scattered ranks")
    return [topology.node_names[node] for node in order]

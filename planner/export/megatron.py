"""Megatron-LM: the arguments of `pretrain_gpt.py` or `pretrain_hybrid.py`, one set for every rank."""

from __future__ import annotations

import json
import shlex
from math import gcd
from typing import TYPE_CHECKING

from shardwright.models import Attention
from shardwright.models.launch import launch_facts

from ..errors import InputError
from .base import Context, Export
from .folder import plan_file, readme, start_scripts
from .hosts import Host, hosts, pipeline_before_data, refuse_techniques, training_plan
from .megatron_attention import refuse_split
from .megatron_hybrid import is_hybrid
from .megatron_layer import Arguments
from .megatron_model import has_biases, model_arguments
from .megatron_numbers import precision_arguments
from .megatron_positions import position_notes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardwright.models import ModelGraph

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
SCRIPTS = {False: "pretrain_gpt.py", True: "pretrain_hybrid.py"}
_SHARDING = {2: "optim_grads", 3: "optim_grads_params"}
_NOTES = (
    "data and checkpoints are yours to add (--data-path, --save, --lr …); the tokenizer stands as NullTokenizer of the "
    "right size",
)
MUON_NOTES = ("the momentum, scale and remaining options of muon; it needs the emerging-optimizers package",)


class Megatron:
    """Megatron-LM's training scripts: `pretrain_gpt.py`, and `pretrain_hybrid.py` for models with Mamba layers."""

    name = "megatron"
    kinds = ("training",)
    validated_with = "megatron-core 0.19.2"

    def __call__(self, context: Context) -> Export:
        """Arguments that rebuild the plan's model, degrees, batch and memory options, and a start script a host."""
        plan, model = training_plan(context), context.model
        assert model is not None
        document = next(record.document for record in plan.inputs if record.role == "model")
        facts = launch_facts(document if isinstance(document, dict) else {})
        strategy, job = plan.strategy, plan.job
        mixture = "experts" in _operator_names(context)
        ordered, order_arguments = _ordered(context, mixture)
        numbers = precision_arguments(strategy, job)
        supported_experts(model, strategy, self.name)
        stages, hybrid, levels = plan.virtual_stages(), is_hybrid(model), context_levels(model, strategy)
        refuse_split(model, facts, strategy, stages)
        arguments = [
            *model_arguments(model, facts, job.sequence_length, stages),
            *parallel_arguments(strategy, stages, mixture, hybrid),
            *order_arguments,
            *(("--hierarchical-context-parallel-sizes", *map(str, sizes)) for sizes in levels),
            *batch_arguments(strategy, job),
            *memory_arguments(strategy, mixture),
            *numbers,
        ]
        notes = (*_NOTES, *position_notes(model, facts), *(MUON_NOTES if job.optimizer == "muon" else ()))
        text = "".join(" ".join(shlex.quote(word) for word in argument) + "\n" for argument in arguments)
        steps = (
            "Copy this folder to every host.",
            "On each host of the table, in Megatron-LM's folder, run `sh PATH/node-N.sh`, N being its order; "
            "--data-path, --save, --lr and the like may follow.",
        )
        files = {
            "megatron_arguments.txt": text,
            "hosts.txt": "".join(json.dumps(host.name) + "\n" for host in ordered),
            **start_scripts(context, ordered, [(SCRIPTS[hybrid],), *arguments], connections(strategy)),
            **plan_file(context),
            "README.md": readme("Start with Megatron-LM", steps, ordered, notes),
        }
        return Export(text=text, files=files, cannot_express=notes)


def parallel_arguments(
    strategy: Strategy, virtual_stages: Iterable[tuple[int, str]], mixture: bool = False, hybrid: bool = False
) -> Arguments:
    """Degrees, and the pipeline layout where stages are uneven; the pattern of a hybrid has its stages in it.

    `virtual_stages` gives, in chain order, each virtual stage's number of layers and what else it holds: E embedding,
    m MTP modules, L loss. Raises InputError for a schedule that Megatron-LM does not have.
    """
    supported_schedule(strategy, "megatron")
    found: Arguments = [("--tensor-model-parallel-size", str(strategy.tp))]
    if strategy.sp:
        found += [("--sequence-parallel",)]
    found += [("--pipeline-model-parallel-size", str(strategy.pp))]
    stages = list(virtual_stages)
    if needs_layout(strategy, stages) and not hybrid:
        found += [("--pipeline-model-parallel-layout", layout(stages))]
    elif strategy.vpp > 1 and not hybrid:
        found += [("--num-virtual-stages-per-pipeline-rank", str(strategy.vpp))]
    found += [("--context-parallel-size", str(strategy.cp))]
    if strategy.cp > 1:
        found += [("--cp-comm-type", strategy.cp_comm)]
    if mixture:
        found += [
            ("--expert-model-parallel-size", str(strategy.ep)),
            ("--expert-tensor-parallel-size", str(strategy.etp)),
        ]
    return found


def supported_schedule(strategy: Strategy, launcher: str) -> None:
    """Raises InputError for a schedule or technique that is not exported to Megatron."""
    refuse_techniques(strategy, launcher)
    if strategy.schedule not in ("1f1b", "interleaved"):
        raise InputError(f"export: {launcher} has no {strategy.schedule} schedule; constrain schedule to 1f1b")


def supported_optimizer(strategy: Strategy, job: TrainingJob, launcher: str) -> None:
    """Raises InputError for an optimizer that Megatron does not shard."""
    if job.optimizer not in ("adam", "sgd", "sgd-momentum", "muon"):
        raise InputError(f"export: {launcher} with sharded states has no optimizer {job.optimizer}; use adam or sgd")
    if job.optimizer == "muon" and (strategy.zero > 1 or job.precision == "fp16"):
        raise InputError(f"export: {launcher} runs muon with zero 0 or 1 and not in fp16; constrain zero to 1")


def supported_experts(model: ModelGraph, strategy: Strategy, launcher: str) -> None:
    """Raises InputError for experts with biases that tensor ranks divide."""
    if strategy.etp > 1 and has_biases(model):
        raise InputError(f"export: {launcher} divides no experts with biases; constrain etp to 1")


def context_levels(model: ModelGraph, strategy: Strategy) -> tuple[tuple[int, int], ...]:
    """Context ranks that swap heads, as many as divide the kv heads of a tp rank, and groups of them that pass keys and
    values round; only where heads are swapped inside groups."""
    if strategy.cp_comm != "a2a+p2p":
        return ()
    kv = [op.kv_heads // strategy.tp for block in model.blocks for op in block.operators if isinstance(op, Attention)]
    inner = gcd(strategy.cp, *(max(heads, 1) for heads in kv))
    return ((inner, strategy.cp // inner),)


def needs_layout(strategy: Strategy, stages: list[tuple[int, str]]) -> bool:
    """Whether stages differ in layers or hold modules that only a layout can place."""
    return strategy.pp > 1 and (len({layers for layers, _ in stages}) > 1 or any("m" in extra for _, extra in stages))


def layout(stages: list[tuple[int, str]]) -> str:
    """Megatron's pipeline layout: the letters of every virtual stage, in chain order."""
    return "|".join(_layout(layers, extra) for layers, extra in stages)


def connections(strategy: Strategy) -> dict[str, str]:
    """The environment Megatron asks for: one hardware queue orders its overlapped transfers, which FSDP must not."""
    return {} if strategy.zero in _SHARDING else {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}


def memory_modules(context: Context, launcher: str) -> tuple[str, ...]:
    """Megatron's names of the modules that the plan recomputes."""
    strategy = training_plan(context).strategy
    found = memory_arguments(strategy, "experts" in _operator_names(context), launcher)
    return found[-1][1:]


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
    supported_optimizer(strategy, job, "megatron")
    found += [("--optimizer", job.optimizer.removesuffix("-momentum"))]
    if job.optimizer == "sgd":
        found += [("--sgd-momentum", "0.0")]
    return found


def memory_arguments(strategy: Strategy, mixture: bool, launcher: str = "megatron") -> Arguments:
    """Recomputation. Raises InputError for a module that Megatron cannot recompute on its own."""
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
        raise InputError(f"export: {launcher} cannot recompute the activation alone in dense layers; use mlp")
    return [("--recompute-granularity", "selective"), ("--recompute-modules", *(_MODULES[m] for m in modules))]


def _operator_names(context: Context) -> set[str]:
    assert context.model is not None
    return {operator.name for block in context.model.layer_blocks() for operator in block.operators}


def _ordered(context: Context, mixture: bool) -> tuple[tuple[Host, ...], Arguments]:
    """Hosts in rank order, and the argument that chooses the order of ranks.

    Where the plan scatters a node's ranks, Megatron's other order (pipeline before data) may gather them.
    """
    strategy = training_plan(context).strategy
    try:
        return hosts(context, Megatron.name), []
    except InputError:
        other = pipeline_before_data(strategy)
        if strategy.zero in _SHARDING or (mixture and strategy.ep * strategy.etp != strategy.tp * strategy.cp):
            raise
        return hosts(context, Megatron.name, other), [("--use-tp-pp-dp-mapping",)]

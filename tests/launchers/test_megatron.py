"""What is exported to Megatron-LM is accepted by its real parser, and means the plan."""

from __future__ import annotations

import shlex
from random import Random

import msgspec
import numpy as np
import pytest

from shardwright.planner import Strategy, TrainingJob, estimate_training, export_plan, plan_training
from shardwright.planner.errors import InputError
from shardwright.planner.plan.training import TrainingPlan
from tests.launchers import megatron_parser, meshes, plans, strategies, torch_words
from tests.launchers.recipe_fates import exported

pytest.importorskip("torch", reason="the launcher checks run in `make test-launchers`")
pytest.importorskip("megatron", reason="the launcher checks run in `make test-launchers`")

PLANS = {
    "dense with uneven stages": ("llama-3.1-70b", "dgx-h100:8", 1024, 8192),
    "learned positions, biases": ("gpt3-175b", "dgx-a100:16", 512, 2048),
    "tied embeddings": ("gpt2-xl", "dgx-a100:1", 512, 1024),
    "mixture of experts": ("qwen3-235b-a22b", "dgx-h100:32", 2048, 4096),
    "latent attention, shared experts, MTP": ("deepseek-v3", "hgx-h800:256", 15360, 4096),
}


def arguments_of(plan: TrainingPlan) -> list[str]:
    return shlex.split(export_plan(plan, "megatron").text)


@pytest.mark.parametrize("name", PLANS)
def test_megatron_accepts_the_plan_and_reads_the_same_degrees(name, monkeypatch):
    model, cluster, gbs, seq = PLANS[name]
    plan = plan_training(model, cluster, TrainingJob(gbs=gbs, sequence_length=seq))
    parsed = megatron_parser.parse(arguments_of(plan), plan.strategy.world_size, monkeypatch)
    strategy = plan.strategy
    assert parsed.tensor_model_parallel_size == strategy.tp
    assert parsed.pipeline_model_parallel_size == strategy.pp
    assert parsed.context_parallel_size == strategy.cp
    assert parsed.expert_model_parallel_size == strategy.ep
    assert parsed.data_parallel_size == strategy.dp
    assert (parsed.virtual_pipeline_model_parallel_size or 1) == strategy.vpp
    assert (parsed.micro_batch_size, parsed.global_batch_size) == (strategy.mbs, gbs)
    assert parsed.num_layers == sum(stage.layers for stage in plan.stages)
    assert parsed.sequence_parallel == strategy.sp
    assert parsed.hidden_dropout == parsed.attention_dropout == (0.1 if model.startswith("gpt") else 0.0)
    groups = megatron_parser.rank_groups(parsed)
    for axis in ("tp", "cp", "pp", *(("etp", "ep", "edp") if strategy.ep > 1 else ())):
        assert sorted(map(tuple, groups[axis])) == meshes.planned(plan, axis)


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(tp=2, sp=True, dp_shard=4, zero=1, recompute="full"),
        Strategy(tp=2, sp=True, dp_shard=4, zero=1, recompute="full", recompute_layers=4),
        Strategy(tp=4, dp_shard=2, zero=0, recompute="selective", recompute_modules=("core_attention", "norm")),
        Strategy(dp_shard=8, zero=3, mbs=2),
        Strategy(dp_shard=8, zero=2),
        Strategy(tp=2, dp_shard=2, dp_replicate=2, zero=1),
        Strategy(cp=4, dp_shard=2, zero=1),
        Strategy(tp=2, pp=2, vpp=4, dp_shard=2, zero=1),
    ],
    ids=lambda strategy: strategy.label(),
)
def test_megatron_accepts_every_way_to_save_memory(strategy, monkeypatch):
    plan = estimate_training("llama-3.1-8b", "dgx-h100:1", TrainingJob(gbs=32, sequence_length=4096), strategy)
    parsed = megatron_parser.parse(arguments_of(plan), strategy.world_size, monkeypatch)
    assert parsed.data_parallel_size == strategy.dp
    assert parsed.use_distributed_optimizer == (strategy.zero > 0)
    assert (parsed.recompute_granularity or "none") == strategy.recompute


@pytest.mark.parametrize("seed", range(4))
def test_megatron_accepts_whatever_is_exported_and_reads_the_plan_in_it(seed, monkeypatch):
    """Legal strategies drawn at random are refused with a reason by the export, or by nobody."""
    megatron_parser.with_transformer_engine(monkeypatch)
    random, accepted = Random(seed), 0
    while accepted < 12:
        name, job, strategy = strategies.drawn(random)
        plan = estimate_training(name, f"dgx-h100:{strategy.world_size // 8}", job, strategy)
        try:
            arguments = shlex.split(exported(plan))
        except InputError:
            continue
        parsed = megatron_parser.parse(arguments, strategy.world_size, monkeypatch)
        told = (parsed.tensor_model_parallel_size, parsed.pipeline_model_parallel_size, parsed.context_parallel_size)
        assert told == (strategy.tp, strategy.pp, strategy.cp)
        assert (parsed.expert_model_parallel_size, parsed.data_parallel_size) == (strategy.ep, strategy.dp)
        assert (parsed.virtual_pipeline_model_parallel_size or 1) == strategy.vpp
        assert parsed.num_layers == sum(stage.layers for stage in plan.stages)
        megatron_parser.rank_groups(parsed)
        accepted += 1


def test_megatron_reads_the_levels_of_context_ranks_that_swap_heads_and_pass_rings(monkeypatch):
    strategy = Strategy(tp=2, sp=True, cp=8, cp_comm="a2a+p2p")
    plan = estimate_training("llama-3.1-8b", "dgx-h100:2", TrainingJob(gbs=32, sequence_length=4096), strategy)
    parsed = megatron_parser.parse(shlex.split(exported(plan)), 16, monkeypatch)
    assert parsed.hierarchical_context_parallel_sizes == [4, 2]


def test_megatron_divides_no_experts_with_biases(monkeypatch):
    """The export refuses it, and so does Megatron where the degree is put in by hand."""
    job, two = TrainingJob(gbs=32, sequence_length=4096), Strategy(tp=2, sp=True, ep=4, etp=2, dp_shard=4)
    with pytest.raises(InputError, match="no experts with biases; constrain etp to 1"):
        exported(estimate_training("gpt-oss-20b", "dgx-h100:1", job, two))
    one = estimate_training("gpt-oss-20b", "dgx-h100:1", job, msgspec.structs.replace(two, etp=1))
    text = exported(one).replace("--expert-tensor-parallel-size 1", "--expert-tensor-parallel-size 2")
    with pytest.raises(AssertionError, match="ETP==1"):
        megatron_parser.parse(shlex.split(text), 8, monkeypatch)


@pytest.mark.parametrize("precision", ["fp16", "fp8", "fp32"])
def test_megatron_accepts_every_number_format(precision, monkeypatch):
    job = TrainingJob(gbs=32, sequence_length=2048, precision=precision)
    plan = plan_training("llama-3.1-8b", "dgx-h100:2", job)
    assert megatron_parser.parse(arguments_of(plan), 16, monkeypatch).seq_length == 2048


@pytest.mark.parametrize("zero", [1, 3])
@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({}, {"exp_avg_dtype": "float32", "accumulate_allreduce_grads_in_fp32": True}),
        ({"gradient_bytes": 2}, {"accumulate_allreduce_grads_in_fp32": False}),
        ({"moment_bytes": 4}, {"exp_avg_dtype": "bfloat16", "exp_avg_sq_dtype": "bfloat16"}),
        ({"moment_bytes": 2, "gradient_bytes": 2}, {"exp_avg_dtype": "uint8", "main_grads_dtype": "bfloat16"}),
        ({"master_weight_bytes": 2}, {"use_precision_aware_optimizer": True}),
    ],
    ids=lambda each: "-".join(each) or "usual",
)
def test_megatron_reads_the_bytes_of_gradients_and_states(changes, read, zero, monkeypatch):
    job = TrainingJob(gbs=32, sequence_length=2048, **changes)
    plan = estimate_training("llama-3.1-8b", "dgx-h100:1", job, Strategy(dp_shard=8, zero=zero))
    parsed = megatron_parser.parse(arguments_of(plan), 8, monkeypatch)
    for name, value in read.items():
        assert str(getattr(parsed, name)).removeprefix("torch.") == str(value)
    masters = parsed.megatron_fsdp_main_params_dtype if zero == 3 else parsed.main_params_dtype
    assert str(masters) == ("torch.float16" if "master_weight_bytes" in changes else "torch.float32")
    if zero == 3:
        gradients = "bfloat16" if "gradient_bytes" in changes else "float32"
        assert str(parsed.megatron_fsdp_main_grads_dtype) == f"torch.{gradients}"


def replicas_together(plan: TrainingPlan) -> TrainingPlan:
    """The whole pipeline of a replica on one host, the second host's replica first, its devices from last to first."""
    per_host = plan.strategy.world_size // 2
    grid = np.arange(plan.strategy.world_size).reshape(plan.strategy.pp, plan.strategy.dp, -1)
    devices = np.empty(plan.strategy.world_size, dtype=int)
    devices[grid.transpose(1, 0, 2).ravel()] = [*range(2 * per_host - 1, per_host - 1, -1), *range(per_host)]
    return msgspec.structs.replace(plan, rank_to_device=tuple(devices.tolist()))


@pytest.mark.parametrize("order", [plans.reordered, replicas_together], ids=["hosts", "replicas"])
def test_megatrons_groups_lie_on_the_devices_that_the_plan_gives_them(order, tmp_path, monkeypatch):
    """Ranks are numbered anew where Megatron takes its other order; what must not change is who talks to whom."""
    plan = order(plans.two_hosts(Strategy(tp=2, sp=True, pp=2, dp_shard=2, zero=1), 4))
    folder = plans.folder(plan, "megatron", tmp_path)
    parsed = megatron_parser.parse(arguments_of(plan), 8, monkeypatch)
    assert parsed.use_tp_pp_dp_mapping == (order is replicas_together)
    where = [int(host[1]) * 4 + device for host, device in torch_words.places(folder)]
    groups = megatron_parser.rank_groups(parsed)
    for theirs, ours in (("tp", "tp"), ("pp", "pp"), ("dp", "dp_shard")):
        found = {tuple(where[rank] for rank in group) for group in groups[theirs]}
        assert found == {tuple(plan.rank_to_device[rank] for rank in group) for group in meshes.planned(plan, ours)}


def _with(arguments: list[str], flag: str, value: str) -> list[str]:
    changed = list(arguments)
    changed[changed.index(flag) + 1] = value
    return changed


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--pipeline-model-parallel-size", "5"),
        ("--global-batch-size", "1023"),
        ("--tensor-model-parallel-size", "3"),
        ("--pipeline-model-parallel-layout", "Et*7|t*9L"),
        ("--no-such-flag", "1"),
    ],
)
def test_megatron_refuses_a_broken_export(flag, value, monkeypatch):
    job = TrainingJob(gbs=1024, sequence_length=8192)
    plan = plan_training("llama-3.1-70b", "dgx-h100:8", job)
    arguments = arguments_of(plan)
    broken = _with(arguments, flag, value) if flag in arguments else [*arguments, flag, value]
    with pytest.raises((SystemExit, AssertionError, ValueError, RuntimeError)):
        megatron_parser.parse(broken, 64, monkeypatch)

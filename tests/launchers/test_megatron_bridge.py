"""What is exported to Megatron-Bridge is taken by its own override parser, configuration classes and checks."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.models import flops_per_token
from shardwright.planner import Strategy, TrainingJob, estimate_training
from shardwright.planner.errors import InputError
from shardwright.planner.export import Context, exporter
from shardwright.planner.export.megatron_bridge import hydra_value
from shardwright.planner.inputs import restored_model, restored_topology
from shardwright.planner.plan.training import TrainingPlan
from tests.launchers import bridge_recipes

pytest.importorskip("torch", reason="the launcher checks run in `make test-launchers`")
pytest.importorskip("megatron", reason="the launcher checks run in `make test-launchers`")
pytest.importorskip("hydra", reason="the launcher checks run in `make test-launchers`")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the library and Megatron, about kernels that are absent here

DENSE = ("llama-3.1-8b", "dgx-h100:2")
CASES = {
    "uneven stages": (*DENSE, Strategy(tp=2, sp=True, pp=4, dp_shard=2, stage_layers=(9, 8, 8, 7)), "bf16"),
    "interleaved": (*DENSE, Strategy(tp=2, sp=True, pp=4, vpp=2, dp_shard=2), "bf16"),
    "context": (*DENSE, Strategy(cp=4, cp_comm="all_gather", dp_shard=4), "fp8"),
    "whole optimizer": (*DENSE, Strategy(tp=8, dp_shard=2, zero=0), "fp16"),
    "sharded gradients": (*DENSE, Strategy(dp_shard=16, zero=2), "bf16"),
    "sharded weights": (*DENSE, Strategy(dp_shard=16, zero=3), "bf16"),
    "replicated shards": (*DENSE, Strategy(tp=2, dp_shard=4, dp_replicate=2), "bf16"),
    "whole layers again": (
        "llama-3.1-8b",
        "hgx-b200:2",
        Strategy(pp=2, dp_shard=8, recompute="full", recompute_layers=4),
        "fp4",
    ),
    "some modules again": (
        *DENSE,
        Strategy(dp_shard=16, recompute="selective", recompute_modules=("core_attention", "mlp")),
        "bf16",
    ),
    "experts": ("qwen3-30b-a3b", "dgx-h100:4", Strategy(tp=2, sp=True, pp=2, dp_shard=8, ep=8), "bf16"),
    "a prediction module": ("deepseek-v3", "dgx-h100:16", Strategy(pp=16, dp_shard=8, ep=8), "bf16"),
    "a hybrid": ("nemotron-h-8b", "dgx-h100:2", Strategy(tp=2, sp=True, pp=4, dp_shard=2), "bf16"),
}


def planned(name: str) -> TrainingPlan:
    model, cluster, strategy, precision = CASES[name]
    half = {"gradient_bytes": 2} if precision == "fp16" else {}
    job = TrainingJob(gbs=64, sequence_length=4096, precision=precision, **half)
    return estimate_training(model, cluster, job, strategy)


def overrides_of(plan: TrainingPlan) -> list[str]:
    context = Context(plan=plan, model=restored_model(plan), topology=restored_topology(plan))
    return exporter("megatron-bridge")(context).text.splitlines()


def configured(plan: TrainingPlan, overrides: list[str], monkeypatch) -> Any:
    """A recipe of the plan's model after the overrides and every check that comes before a model is built."""
    bridge_recipes.load()
    from megatron.bridge.models import GPTModelProvider, HybridModelProvider
    from megatron.bridge.training.config import runtime_config_update

    model = restored_model(plan)
    made = bridge_recipes.recipe()
    attention = next(op for block in model.layer_blocks() for op in block.operators if op.name == "core_attention")
    experts = next((op for block in model.layer_blocks() for op in block.operators if op.name == "experts"), None)
    hybrid = any(op.name == "mamba_scan" for block in model.layer_blocks() for op in block.operators)
    made.model = (HybridModelProvider if hybrid else GPTModelProvider)(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=attention.heads,
        num_query_groups=attention.kv_heads,
        num_moe_experts=experts.experts if experts else None,
        apply_rope_fusion=False,  # a kernel
        mtp_num_layers=sum(run.repeat for run in model.runs if run.block.role == "mtp") or None,
    )
    monkeypatch.setenv("WORLD_SIZE", str(plan.strategy.world_size))
    monkeypatch.setenv("RANK", "0")
    done = bridge_recipes.overridden(made, overrides)
    runtime_config_update(done)
    return done


@pytest.mark.parametrize("name", CASES)
def test_megatron_bridge_takes_the_plan_and_reads_the_same_degrees(name, monkeypatch):
    plan = planned(name)
    read, strategy = configured(plan, overrides_of(plan), monkeypatch), plan.strategy
    model = read.model
    assert model.tensor_model_parallel_size == strategy.tp
    assert model.pipeline_model_parallel_size == strategy.pp
    assert model.context_parallel_size == strategy.cp
    assert model.expert_model_parallel_size == strategy.ep
    assert (model.virtual_pipeline_model_parallel_size or 1) == strategy.vpp
    assert model.sequence_parallel == strategy.sp
    assert read.data_parallel_size == strategy.dp
    assert (read.train.micro_batch_size, read.train.global_batch_size) == (strategy.mbs, plan.job.gbs)
    assert model.seq_length == read.dataset.seq_length == plan.job.sequence_length
    assert read.optimizer.use_distributed_optimizer == (strategy.zero > 0)
    assert (model.recompute_granularity or "none") == strategy.recompute
    assert read.ddp.use_megatron_fsdp == (strategy.zero >= 2)
    assert read.peft is None
    numbers = read.mixed_precision
    assert {"fp8": numbers.fp8 == "hybrid", "fp4": numbers.fp4 == "e2m1"}.get(plan.job.precision, not numbers.fp8)
    assert (2 if not numbers.grad_reduce_in_fp32 else 4) == plan.job.gradient_bytes


def test_megatron_bridge_lays_stages_out_as_planned(monkeypatch):
    plan = planned("uneven stages")
    layout = configured(plan, overrides_of(plan), monkeypatch).model.pipeline_model_parallel_layout
    stages = [[str(kind).rsplit(".", 1)[-1] for kind in stage[0]] for stage in layout.layout]
    assert [stage.count("decoder") for stage in stages] == [9, 8, 8, 7]
    hybrid = planned("a hybrid")
    pattern = configured(hybrid, overrides_of(hybrid), monkeypatch).model.hybrid_layer_pattern
    assert [len(stage) for stage in pattern.split("|")] == [stage.layers for stage in hybrid.stages]


@pytest.mark.parametrize(
    "broken",
    [
        "model.no_such_degree=2",
        "model.tensor_model_parallel_size=3",
        "model.pipeline_model_parallel_size=[4",
        "model.pipeline_model_parallel_layout='Et*9|t*9|t*9L'",
        "mixed_precision=no_such_mixed",
        "train.global_batch_size=63",
        "ddp.use_distributed_optimizer",
    ],
)
def test_megatron_bridge_refuses_a_broken_export(broken, monkeypatch):
    plan = planned("uneven stages")
    key = broken.split("=")[0]
    overrides = [each for each in overrides_of(plan) if not each.startswith(f"{key}=")]
    with pytest.raises(Exception, match=r"\w"):
        configured(plan, [*overrides, broken], monkeypatch)


def videos(strategy: Strategy) -> TrainingPlan:
    job = TrainingJob(gbs=64, sequence_length=37440, gradient_bytes=2)
    return estimate_training("wan2.1-t2v-14b", "dgx-h100:4", job, strategy)


def configured_videos(overrides: list[str], monkeypatch, tmp_path) -> Any:
    """Its own recipe of Wan after the overrides and its checks."""
    bridge_recipes.with_kernels(monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "32")
    monkeypatch.setenv("RANK", "0")
    from megatron.bridge.training.config import runtime_config_update

    made = bridge_recipes.published()["wan_14b_pretrain_32gpu_h100_bf16_config"]()
    made.checkpoint.pretrained_checkpoint = str(tmp_path)
    done = bridge_recipes.overridden(made, overrides)
    runtime_config_update(done)
    return done


def test_a_video_model_is_trained_as_planned_and_counts_the_same_flops(monkeypatch, tmp_path):
    """The library counts them by the tokens of videos and texts that it ran, but for those of the time step."""
    plan = videos(Strategy(cp=8, dp_shard=4, recompute="full", recompute_layers=3))
    read = configured_videos(overrides_of(plan), monkeypatch, tmp_path)
    assert (read.model.tensor_model_parallel_size, read.model.context_parallel_size) == (1, 8)
    assert (read.model.recompute_method, read.model.recompute_num_layers) == ("block", 3)
    assert read.data_parallel_size == plan.strategy.dp
    assert (read.dataset.micro_batch_size, read.dataset.global_batch_size) == (1, 64)
    video, text = plan.job.sequence_length, read.model.text_len
    counted = read.model._get_num_floating_point_operations_with_runtime_stats(
        batch_size=1,
        seqlen_sum=video,
        seqlen_squared_sum=video**2,
        cross_seqlen_sum=text,
        cross_seqlen_product_sum=video * text,
    )
    ours = flops_per_token(restored_model(plan), video, direction="both") * video
    assert ours == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize(
    "broken",
    ["model.tensor_model_parallel_size=3", "model.context_parallel_size=5", "dataset.packing=1", "model.text_length=7"],
)
def test_a_broken_export_of_a_video_model_is_refused(broken, monkeypatch, tmp_path):
    key = broken.split("=")[0]
    overrides = overrides_of(videos(Strategy(tp=2, sp=True, cp=4, dp_shard=4)))
    kept = [each for each in overrides if not each.startswith(f"{key}=")]
    with pytest.raises(Exception, match=r"\w"):
        configured_videos([*kept, broken], monkeypatch, tmp_path)


def test_hybrids_have_no_virtual_stages_there():
    strategy = Strategy(tp=2, sp=True, pp=2, vpp=2, dp_shard=4)
    job = TrainingJob(gbs=64, sequence_length=4096)
    with pytest.raises(InputError, match="no virtual stages for hybrids"):
        overrides_of(estimate_training("nemotron-h-8b", "dgx-h100:2", job, strategy))


@pytest.mark.parametrize(
    "text",
    [
        "M-M*|M-/*E",
        "it's",
        "a b",
        "$(touch owned)",
        "${oc.env:HOME}",
        "a,b",
        "{x:1}",
        "[1]",
        "\\",
        "\\'",
        "'",
        "#",
        "a=b",
        "a\\b",
        "\\${x}",
        "\\\\${x}",
        "a\nb",
    ],
)
def test_values_come_out_of_hydras_parser_as_they_went_in(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    [found] = OverridesParser.create().parse_overrides([f"key={hydra_value(text)}"])
    assert OmegaConf.to_container(OmegaConf.create({"key": found.value()}), resolve=True) == {"key": text}

"""The memory of plans against Megatron-LM's real modules, optimizer and estimate, on ranks of worlds of hundreds."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from shardwright.models import catalog_entry
from shardwright.planner import Strategy, TrainingJob, estimate_training, export_plan
from shardwright.planner.plan.training import TrainingPlan
from tests.launchers import megatron_parser

pytest.importorskip("torch", reason="the memory oracle runs in `make test-memory`")
pytest.importorskip("megatron", reason="the memory oracle runs in `make test-memory`")

pytestmark = pytest.mark.filterwarnings("ignore")  # Megatron's own, about kernels that are absent here
TOLERANCE = 0.03
# Model, its layers here, cluster, strategy, and what Megatron needs to know shapes before it routes tokens.
# DeepSeek has no tp: Megatron divides the down-projections by it, but copies them where Transformer Engine is there.
# Only Transformer Engine's experts can run their activation again, so that module is not here.
EVEN = ("--moe-expert-capacity-factor", "1.0", "--moe-pad-expert-input-to-capacity")
CASES = {
    "Llama": ("llama-3.1-8b", 8, "dgx-h100:32", Strategy(tp=4, sp=True, cp=2, pp=4, dp_shard=8), ()),
    "Llama, norms whole": ("llama-3.1-8b", 4, "dgx-h100:16", Strategy(tp=2, pp=2, dp_shard=32), ()),
    "Qwen 2.5": ("qwen2.5-7b", 4, "dgx-h100:16", Strategy(tp=4, sp=True, pp=2, dp_shard=16), ()),
    "Qwen 3": ("qwen3-8b", 4, "dgx-h100:32", Strategy(tp=8, sp=True, cp=4, dp_shard=8), ()),
    "Qwen 3 experts": ("qwen3-30b-a3b", 4, "dgx-h100:32", Strategy(tp=2, sp=True, pp=2, dp_shard=64, ep=32), EVEN),
    "DeepSeek": ("deepseek-v2", 4, "dgx-h100:32", Strategy(pp=2, dp_shard=128, ep=32), EVEN),
    "every layer again": (
        "llama-3.1-8b",
        16,
        "dgx-h100:16",
        Strategy(tp=4, sp=True, pp=2, dp_shard=16, recompute="full"),
        (),
    ),
    "some layers again": (
        "llama-3.1-8b",
        8,
        "dgx-h100:16",
        Strategy(tp=4, sp=True, pp=2, dp_shard=16, recompute="full", recompute_layers=2),
        (),
    ),
    "attention again": (
        "llama-3.1-8b",
        8,
        "dgx-h100:16",
        Strategy(tp=4, sp=True, pp=2, dp_shard=16, recompute="selective", recompute_modules=("core_attention",)),
        (),
    ),
    "norms and feed-forward again": (
        "qwen3-8b",
        8,
        "dgx-h100:16",
        Strategy(tp=4, sp=True, pp=2, dp_shard=16, recompute="selective", recompute_modules=("norm", "mlp")),
        (),
    ),
    "experts again": (
        "qwen3-30b-a3b",
        4,
        "dgx-h100:16",
        Strategy(tp=2, sp=True, pp=2, dp_shard=32, ep=32, recompute="selective", recompute_modules=("experts",)),
        EVEN,
    ),
    "latent projections again": (
        "deepseek-v2",
        4,
        "dgx-h100:32",
        Strategy(pp=2, dp_shard=128, ep=32, recompute="selective", recompute_modules=("mla_up",)),
        EVEN,
    ),
}


def planned(name: str, folder: Path) -> TrainingPlan:
    """The plan of a case, for a model with fewer layers than the catalog's."""
    model, layers, cluster, strategy, _ = CASES[name]
    config = {**catalog_entry(model).config, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    gbs = 8 * strategy.dp
    job = TrainingJob(gbs=gbs, sequence_length=4096, framework="megatron-2025")
    return estimate_training(str(folder / "config.json"), cluster, job, strategy)


@pytest.fixture
def on_rank(request, tmp_path, monkeypatch):
    """The plan of a case, Megatron's arguments for it, and Megatron's parallel state of a stage's first rank."""
    from tests.oracles import megatron_fake

    name, stage = request.param
    plan = planned(name, tmp_path)
    size = plan.strategy.world_size
    fused = [flag for flag in megatron_parser.CPU_ONLY if flag != "--no-bias-swiglu-fusion"]
    no_draws = ["--hidden-dropout", "0", "--attention-dropout", "0", "--use-cpu-initialization"]
    monkeypatch.setattr(megatron_parser, "CPU_ONLY", [*fused, *no_draws, *CASES[name][4]])
    parsed = megatron_parser.parse(shlex.split(export_plan(plan, "megatron").text), size, monkeypatch)
    with megatron_fake.rank_of(size, stage * size // plan.strategy.pp, parsed, monkeypatch):
        yield plan, stage, parsed


def stages(*which: int):
    """Every case on some of its pipeline ranks; -1 is the last."""
    chosen = [(name, stage % CASES[name][3].pp) for name in CASES for stage in which]
    return pytest.mark.parametrize(
        "on_rank", dict.fromkeys(chosen), indirect=True, ids=lambda case: f"{case[0]} {case[1]}"
    )


@stages(0, -1)
def test_weights_gradients_and_states_are_those_of_the_real_optimizer(on_rank, monkeypatch):
    from tests.oracles import megatron_fake

    plan, stage, parsed = on_rank
    found, ours = megatron_fake.states_of(parsed, monkeypatch), plan.memory[stage].categories
    assert ours["weights"] == pytest.approx(found.weights, rel=TOLERANCE)
    assert ours["gradients"] == pytest.approx(found.gradients, rel=TOLERANCE)
    assert ours["optimizer"] == pytest.approx(found.optimizer, rel=TOLERANCE)


@stages(0, 1, -1)
def test_activations_are_those_that_the_real_modules_keep(on_rank):
    from tests.oracles import megatron_fake

    plan, stage, parsed = on_rank
    live = min(plan.strategy.pp - stage, plan.strategy.microbatches(plan.job.gbs))
    found, ours = megatron_fake.activations_of(parsed, live), plan.memory[stage].categories
    if stage == plan.strategy.pp - 1:
        assert ours["activations"] + ours["logits"] == pytest.approx(found.peak, rel=TOLERANCE)
    else:
        assert ours["activations"] == pytest.approx(found.kept, rel=TOLERANCE)


@pytest.mark.parametrize(
    "on_rank", [("Llama", 0), ("Llama, norms whole", 0), ("Qwen 3 experts", 0)], indirect=True, ids=str
)
def test_megatrons_own_estimate_of_the_fullest_stage_agrees(on_rank):
    """Its estimate is of the first stage; it is told here that context ranks share the states as well."""
    from megatron.training.theoretical_memory_usage import compute_weight_and_optimizer_memory
    from megatron.training.vocab_utils import calculate_padded_vocab_size

    plan, _, parsed = on_rank
    parsed.padded_vocab_size = calculate_padded_vocab_size(
        parsed.vocab_size, parsed.make_vocab_size_divisible_by, parsed.tensor_model_parallel_size, False
    )
    parsed.data_parallel_size *= parsed.context_parallel_size
    ours = plan.memory[0].categories
    found = compute_weight_and_optimizer_memory(parsed)
    assert ours["weights"] + ours["gradients"] + ours["optimizer"] == pytest.approx(found, rel=TOLERANCE)


@pytest.mark.parametrize("on_rank", [("Llama", 0)], indirect=True, ids=str)
def test_real_modules_that_do_not_divide_sequences_keep_more_than_the_plan_says(on_rank):
    from tests.oracles import megatron_fake

    plan, _, parsed = on_rank
    parsed.sequence_parallel = parsed.transformer.sequence_parallel = False
    found = megatron_fake.activations_of(parsed, plan.strategy.pp)
    assert found.kept > (1 + TOLERANCE) * plan.memory[0].categories["activations"]

"""Models beyond plain transformers in Megatron-LM's arguments, and what of them is refused with its name."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from shardwright.models import catalog_entry
from shardwright.planner import Strategy, TrainingJob, estimate_training
from shardwright.planner.errors import InputError
from shardwright.planner.export import Context, Export, exporter
from shardwright.planner.inputs import restored_model, restored_topology
from shardwright.planner.plan.training import TrainingPlan


def planned(model: str, strategy: Strategy, cluster: str = "dgx-h100:2", **changes) -> TrainingPlan:
    """A plan whether or not it fits: what is asked for is its form."""
    return estimate_training(model, cluster, TrainingJob(gbs=64, sequence_length=4096, **changes), strategy)


def exported(plan: TrainingPlan, launcher: str = "megatron") -> Export:
    return exporter(launcher)(Context(plan=plan, model=restored_model(plan), topology=restored_topology(plan)))


def arguments(model: str, strategy: Strategy | None = None) -> dict[str, list[str]]:
    """Every argument of the export with its values."""
    found: dict[str, list[str]] = {}
    for word in shlex.split(exported(planned(model, strategy or Strategy(dp_shard=16))).text):
        if word.startswith("--"):
            found[word] = []
        else:
            found[next(reversed(found))].append(word)
    return found


def changed(model: str, folder: Path, **fields) -> str:
    """A catalog model with other fields, as a file."""
    config = {**catalog_entry(model).config, **fields}
    path = folder / "config.json"
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
    return str(path)


def test_a_video_model_goes_to_megatron_bridge_with_its_data_told_the_batch():
    made = exported(planned("wan2.1-t2v-14b", Strategy(tp=2, sp=True, cp=4, dp_shard=2)), "megatron-bridge")
    words = made.text.splitlines()
    assert {"dataset.seq_length=4096", "dataset.micro_batch_size=1", "dataset.global_batch_size=64"} <= set(words)
    assert any("4096 patches" in note for note in made.cannot_express)
    language = exported(planned("llama-3.1-8b", Strategy(dp_shard=16)), "megatron-bridge")
    assert not any(word.startswith("dataset.micro") for word in language.text.splitlines())
    assert not any("patches" in note for note in language.cannot_express)


@pytest.mark.parametrize(
    ("launcher", "strategy", "text"),
    [
        ("megatron", Strategy(dp_shard=16), "a video model"),
        ("megatron-bridge", Strategy(pp=2, dp_shard=8), "wan2.1-t2v-14b with pp of at most 1 but got 2"),
        ("megatron-bridge", Strategy(mbs=2, dp_shard=16), "mbs of at most 1 but got 2; constrain mbs"),
        ("megatron-bridge", Strategy(zero=3, dp_shard=16), "zero of at most 1 but got 3"),
    ],
)
def test_what_of_a_video_model_megatron_cannot_train_is_refused_by_name(launcher, strategy, text):
    with pytest.raises(InputError, match=text):
        exported(planned("wan2.1-t2v-14b", strategy), launcher)


def test_levels_of_context_ranks_are_told_and_experts_with_biases_stay_whole():
    strategy = Strategy(tp=2, sp=True, cp=8, cp_comm="a2a+p2p")
    assert arguments("llama-3.1-8b", strategy)["--hierarchical-context-parallel-sizes"] == ["4", "2"]
    bridge = exported(planned("llama-3.1-8b", strategy), "megatron-bridge").text.splitlines()
    assert "model.hierarchical_context_parallel_sizes=[4,2]" in bridge
    assert "hierarchical" not in exported(planned("llama-3.1-8b", Strategy(cp=8, dp_shard=2))).text
    divided = planned("gpt-oss-20b", Strategy(tp=2, sp=True, ep=4, etp=2, dp_shard=8))
    for launcher in ("megatron", "megatron-bridge"):
        with pytest.raises(InputError, match=f"{launcher} divides no experts with biases"):
            exported(divided, launcher)


@pytest.mark.parametrize("model", ["t5-3b", "bert-large", "whisper-large-v3"])
@pytest.mark.parametrize("launcher", ["megatron", "megatron-bridge"])
def test_encoders_are_refused(launcher, model):
    with pytest.raises(InputError, match=f"{launcher} cannot express an encoder stack of {model}"):
        exported(planned(model, Strategy(dp_shard=16)), launcher)


def test_a_hybrid_has_its_stages_in_its_pattern_and_starts_its_own_script():
    plan = planned("nemotron-h-8b", Strategy(tp=2, sp=True, pp=4, dp_shard=2))
    made = exported(plan)
    words = shlex.split(made.text)
    stages = words[words.index("--hybrid-layer-pattern") + 1].split("|")
    whole = catalog_entry("nemotron-h-8b").config["hybrid_override_pattern"]
    assert "".join(stages) == whole
    assert [len(stage) for stage in stages] == [stage.layers for stage in plan.stages]
    assert "--num-layers" not in words
    assert "--pipeline-model-parallel-layout" not in words
    assert "pretrain_hybrid.py" in made.files["node-0.sh"]
    assert "pretrain_gpt.py" in exported(planned("llama-3.1-8b", Strategy(dp_shard=16))).files["node-0.sh"]


def test_a_hybrid_of_experts_has_latent_ones_and_a_prediction_module():
    found = arguments("nemotron-3-super-120b-a12b")
    assert found["--hybrid-layer-pattern"][0].endswith("EMEMEMEME/*E")
    assert found["--moe-latent-size"] == ["1024"]
    assert found["--moe-router-score-function"] == ["sigmoid"]
    assert found["--position-embedding-type"] == ["none"]
    assert found["--mamba-num-heads"] == ["128"]
    assert not {"--moe-layer-freq", "--mtp-num-layers", "--swiglu"} & set(found)


def test_windows_and_sinks_are_gpt_oss_ones():
    found = arguments("gpt-oss-20b")
    assert found["--window-size"] == ["127,0"]
    assert found["--window-attn-skip-freq"] == ["[" + ",".join(["1", "0"] * 12) + "]"]
    assert found["--softmax-type"] == ["learnable"]
    assert found["--activation-func-clamp-value"] == ["7.0"]
    assert found["--position-embedding-type"] == ["yarn"]
    assert not {"--swiglu", "--disable-bias-linear"} & set(found)


def test_the_delta_rule_takes_the_layers_that_do_not_attend():
    found = arguments("qwen3.5-35b-a3b")
    assert found["--experimental-attention-variant"] == ["gated_delta_net"]
    assert found["--linear-attention-freq"] == ["[" + ",".join(["1", "1", "1", "0"] * 10) + "]"]
    assert {"--attention-output-gate", "--moe-shared-expert-gate", "--apply-layernorm-1p"} <= set(found)


def test_sparse_attention_says_which_layers_have_indexers():
    own, shared = arguments("glm-5"), arguments("glm-5.2")
    assert own["--experimental-attention-variant"] == shared["--experimental-attention-variant"] == ["dsa"]
    assert "--dsa-indexer-topk-freq" not in own
    assert shared["--dsa-indexer-topk-freq"] == ["4"]
    assert shared["--dsa-indexer-skip-topk-offset"] == ["3"]


@pytest.mark.parametrize(
    ("scaling", "written"),
    [
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            | {"original_max_position_embeddings": 8192},
            {"--use-rope-scaling": [], "--rope-scaling-factor": ["8.0"], "--position-embedding-type": ["rope"]},
        ),
        (
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "truncate": False},
            {
                "--position-embedding-type": ["yarn"],
                "--rotary-scaling-factor": ["4.0"],
                "--yarn-original-max-position-embeddings": ["32768"],
                "--no-yarn-correction-range-round-to-int": [],
            },
        ),
        ({"type": "linear", "factor": 2.0}, {"--rotary-seq-len-interpolation-factor": ["2"]}),
        ({"rope_type": "default"}, {"--position-embedding-type": ["rope"]}),
    ],
    ids=lambda each: str(each.get("type", each.get("rope_type", ""))),
)
def test_stretched_positions_are_said_to_megatron(scaling, written, tmp_path):
    found = arguments(changed("llama-3.1-8b", tmp_path, rope_scaling=scaling))
    assert written.items() <= found.items()


def test_what_reaches_no_argument_of_latent_attention_is_listed(tmp_path):
    scaling = {"type": "yarn", "factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0}
    model = changed("deepseek-v2-lite", tmp_path, rope_scaling=scaling)
    made = exported(planned(model, Strategy(dp_shard=16)))
    assert any("YaRN" in note for note in made.cannot_express)
    assert "--rotary-scaling-factor 32.0" in made.text


@pytest.mark.parametrize(
    ("model", "fields", "strategy", "refusal"),
    [
        ("jamba-v0.1", {}, Strategy(dp_shard=16), "state-space layers other than Mamba 2 of jamba"),
        ("minimax-text-01", {}, Strategy(dp_shard=16), "linear attention other than the gated delta rule"),
        ("gemma-2-9b", {}, Strategy(dp_shard=16), "norms after the branches"),
        ("llama-4-scout", {}, Strategy(dp_shard=16), "chunked attention|different|positions"),
        ("nemotron-h-8b", {"conv_kernel": 3}, Strategy(dp_shard=16), "a convolution other than one of 4 taps"),
        ("llama-3.1-8b", {"rope_scaling": {"type": "longrope"}}, Strategy(dp_shard=16), "rope_scaling 'longrope'"),
        (
            "qwen3-next-80b-a3b",
            {"linear_num_key_heads": 2, "linear_num_value_heads": 32},
            Strategy(tp=4, sp=True, dp_shard=4),
            "2 delta-rule heads over tp × cp = 4",
        ),
        ("glm-5.2", {}, Strategy(cp=2, dp_shard=8), r"cp_comm p2p with the sparse attention"),
        ("glm-5.2", {}, Strategy(pp=6, dp_shard=4), "a stage that begins with layer 13"),
        ("deepseek-v4-flash", {}, Strategy(dp_shard=8), "hyper-connections of deepseek-v4-flash"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_megatron_cannot_express_is_refused_by_name(model, fields, strategy, refusal, tmp_path):
    cluster = f"dgx-h100:{strategy.world_size // 8}"
    plan = planned(changed(model, tmp_path, **fields) if fields else model, strategy, cluster)
    with pytest.raises(InputError, match=refusal):
        exported(plan)

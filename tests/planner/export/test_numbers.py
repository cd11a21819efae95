"""What a job trains and in how many bytes it keeps states is exported, left to the program, or refused."""

from __future__ import annotations

import json
import shlex

import msgspec
import pytest

from shardwright.models import catalog_entry
from shardwright.planner import Strategy, TrainingJob, estimate_training, export_plan
from shardwright.planner.errors import InputError
from shardwright.planner.export import Export

PROGRAMS = ["torchrun", "slurm", "openmpi", "jobset", "trainjob", "skypilot"]
KEEPERS = ["megatron", "megatron-bridge", "torchtitan", "accelerate", "deepspeed"]
JOB = TrainingJob(gbs=48, sequence_length=2048)


def exported(name: str, zero: int = 2, **changes: object) -> Export:
    """A small plan of a job that differs from the usual, in a launcher's form."""
    job = msgspec.structs.replace(JOB, **changes)
    return export_plan(estimate_training("qwen3-0.6b", "dgx-h100:2", job, Strategy(dp_shard=16, zero=zero)), name)


@pytest.mark.parametrize("name", [name for name in KEEPERS if name != "megatron-bridge"])
def test_adapters_are_refused_where_every_weight_would_be_trained(name):
    with pytest.raises(InputError, match=f"export: {name} cannot express trained adapters; plan with trained all"):
        exported(name, trained="adapters")


def test_megatron_bridge_asks_for_a_recipe_with_adapters_and_takes_them_out_of_one_that_trains_all():
    adapters, everything = exported("megatron-bridge", trained="adapters"), exported("megatron-bridge")
    assert "PEFT" in adapters.files["README.md"]
    assert "peft=null" not in adapters.text.split()
    assert "peft=null" in everything.text.split()


@pytest.mark.parametrize("change", [{"trained": "adapters"}, {"moment_bytes": 4}], ids=lambda each: next(iter(each)))
@pytest.mark.parametrize("name", PROGRAMS)
def test_launchers_that_only_start_ranks_say_that_the_program_must_follow(name, change):
    [(field, value)] = change.items()
    made = exported(name, **change)
    assert any(f"{field} {value}" in note for note in made.cannot_express)
    assert f"{field} {value}" in made.files["README.md"]
    assert not any(field in note for note in exported(name).cannot_express)


@pytest.mark.parametrize("change", [{"moment_bytes": 3}, {"master_weight_bytes": 1}, {"gradient_bytes": 3}])
@pytest.mark.parametrize("name", KEEPERS)
def test_bytes_that_a_launcher_has_no_format_for_are_refused(name, change):
    with pytest.raises(InputError, match=f"{name} .*{next(iter(change))}"):
        exported(name, **change)


@pytest.mark.parametrize(
    ("zero", "changes", "words"),
    [
        (1, {"gradient_bytes": 2}, "--grad-reduce-in-bf16"),
        (1, {"moment_bytes": 4}, "--use-precision-aware-optimizer --exp-avg-dtype bf16 --exp-avg-sq-dtype bf16"),
        (1, {"master_weight_bytes": 2}, "--main-params-dtype fp16"),
        (1, {"moment_bytes": 4, "gradient_bytes": 2}, "--grad-reduce-in-bf16 --main-grads-dtype bf16"),
        (1, {"precision": "fp16"}, "--accumulate-allreduce-grads-in-fp32"),
        (3, {}, "--megatron-fsdp-main-grads-dtype fp32"),
        (3, {"gradient_bytes": 2}, "--megatron-fsdp-main-grads-dtype bf16 --grad-reduce-in-bf16"),
        (3, {"master_weight_bytes": 2}, "--megatron-fsdp-main-params-dtype fp16"),
    ],
)
def test_megatron_is_told_the_bytes_of_gradients_and_states(zero, changes, words):
    assert words in " ".join(shlex.split(exported("megatron", zero, **changes).text))


def test_megatron_refuses_short_states_that_its_optimizer_would_not_keep():
    with pytest.raises(InputError, match="constrain zero"):
        exported("megatron", 0, moment_bytes=4)


@pytest.mark.parametrize(("gradient_bytes", "name"), [(4, "fp32"), (2, "bf16")])
def test_deepspeed_is_told_the_format_of_gradients(gradient_bytes, name):
    config = json.loads(exported("deepspeed", gradient_bytes=gradient_bytes).text)
    assert config["data_types"] == {"grad_accum_dtype": name}


def test_deepspeed_refuses_a_mix_of_formats_that_it_has_without_zero_only_in_one():
    with pytest.raises(InputError, match="constrain zero to 1"):
        exported("deepspeed", 0)


def test_megatron_bridge_keeps_the_gradients_of_fp16_in_two_bytes():
    with pytest.raises(InputError, match="gradient_bytes 2"):
        exported("megatron-bridge", precision="fp16")
    assert exported("megatron-bridge", precision="fp16", gradient_bytes=2).text


def test_megatron_bridge_is_told_of_gradients_in_two_bytes_whatever_the_recipe_had():
    *_, away, written = exported("megatron-bridge", precision="fp8", gradient_bytes=2).text.splitlines()
    assert away == "~mixed_precision"
    assert written.startswith("+mixed_precision={_target_:")
    assert "fp8:hybrid" in written
    assert "grad_reduce_in_fp32:false" in written
    assert "mixed_precision=bf16_mixed" in exported("megatron-bridge").text.split()


def test_megatron_bridge_is_told_the_formats_of_states():
    words = exported("megatron-bridge", 1, moment_bytes=6, master_weight_bytes=2).text.split()
    assert "optimizer.use_precision_aware_optimizer=true" in words
    assert "optimizer.exp_avg_dtype='torch.bfloat16'" in words
    assert "optimizer.exp_avg_sq_dtype='torch.float32'" in words
    assert "optimizer.main_params_dtype='torch.float16'" in words
    assert "optimizer.use_precision_aware_optimizer=false" in exported("megatron-bridge", 1).text.split()


def test_muon_is_exported_to_megatron_and_its_states_divided_layer_by_layer():
    made = exported("megatron", 1, optimizer="muon")
    assert "--optimizer muon" in made.text
    assert "--use-distributed-optimizer" in made.text
    assert any("emerging-optimizers" in note for note in made.cannot_express)
    words = exported("megatron-bridge", 1, optimizer="muon").text.split()
    assert "optimizer.use_layer_wise_distributed_optimizer=true" in words
    assert "ddp.use_distributed_optimizer=false" in words


@pytest.mark.parametrize(("zero", "precision"), [(2, "bf16"), (3, "bf16"), (1, "fp16")])
@pytest.mark.parametrize("name", ["megatron", "megatron-bridge"])
def test_muon_is_refused_where_megatron_does_not_run_it(name, zero, precision):
    with pytest.raises(InputError, match=f"{name} runs muon with zero 0 or 1"):
        exported(name, zero, optimizer="muon", precision=precision)


def test_megatron_is_told_the_dropout_whose_masks_the_plan_counts(tmp_path):
    """Whatever the generation of software, a model that drops keeps a byte an element of every residual branch."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**catalog_entry("gpt2").config, "resid_pdrop": 0.0, "attn_pdrop": 0.0}))
    for framework in ("megatron-2024", "megatron-2025"):
        job = msgspec.structs.replace(JOB, framework=framework, sequence_length=1024)
        drops, does_not = (
            estimate_training(model, "dgx-h100:2", job, Strategy(dp_shard=16)) for model in ("gpt2", str(path))
        )
        assert "--hidden-dropout 0.1" in export_plan(drops, "megatron").text
        assert "--hidden-dropout 0.0" in export_plan(does_not, "megatron").text
        masks = drops.memory[0].categories["activations"] - does_not.memory[0].categories["activations"]
        assert masks == 12 * 2 * 768 * 1024

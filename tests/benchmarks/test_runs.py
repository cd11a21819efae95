from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measurements.runs import Run, Skipped, measured_seconds, read_rows, runs_of
from benchmarks.prediction import predict
from tests.benchmarks.rows import COLUMNS, row

ODD = ["", "nan", "-1", "0", "1e309", "abc", "1.5", "∞", "None", "full:20 layers", "ZeRO-9", "8x", "1e6", "💥", " 4 "]


def only(**changes: str) -> Run | Skipped:
    return runs_of([row(**changes)])[0]


def reason(**changes: str) -> str:
    found = only(**changes)
    assert isinstance(found, Skipped)
    return found.reason


def test_a_full_row_is_a_run() -> None:
    run = only()
    assert isinstance(run, Run)
    assert (run.strategy.tp, run.strategy.pp, run.strategy.dp, run.strategy.zero) == (8, 2, 4, 0)
    assert (run.job.gbs, run.job.precision, run.strategy.recompute) == (256, "fp16", "full")
    assert run.model.num_layers == 40
    assert run.measured_s == 13.5


def test_throughput_stands_in_for_a_time_not_reported() -> None:
    assert measured_seconds(row(rep_iter_time_s="", derived_tokens_per_s_per_gpu="512")) == 256 * 2048 / (512 * 64)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rep_iter_time_s": ""}, "no iteration time or throughput"),
        ({"layers": ""}, "layers not given"),
        ({"mbs": ""}, "mbs not given"),
        ({"tp": ""}, "tp not given"),
        ({"gpu": "Abacus"}, "accelerator unknown to the catalog"),
        ({"dp": "5"}, "degrees do not multiply to num_gpus"),
        ({"pp": "3", "dp": ""}, "degrees do not multiply to num_gpus"),
        ({"gbs": "20"}, "gbs is not a multiple of mbs × dp"),
        ({"metric": "OOM"}, "did not run: out of memory"),
        ({"precision": ""}, "precision not given"),
        ({"hidden": "-6144"}, "hidden is negative"),
        ({"layers": "forty"}, "layers is not a number"),
        ({"experts": "8", "topk": "2", "moe_ffn": "99"}, "mixture of experts unknown to the catalog"),
        ({"model": "secret-7b"}, "model unknown: whether its feed-forward is gated"),
        ({"vpp": "30"}, "more stages than layers"),
        ({"zero_distopt": "magic"}, "sharding of the optimizer unknown"),
    ],
)
def test_what_is_missing_or_wrong_is_the_reason(changes: dict[str, str], why: str) -> None:
    assert reason(**changes) == why


def test_what_is_assumed_is_said() -> None:
    run = only(vpp="", recompute="", zero_distopt="", kv_heads="", source="MLPerf Training v4.0", framework="PyTorch")
    assert isinstance(run, Run)
    assert run.job.framework == "megatron-2024"
    said = " ".join(run.assumptions)
    for what in ("vpp not given", "recompute not given", "zero not given", "kv_heads not given"):
        assert what in said


def test_a_batch_almost_a_multiple_is_rounded_and_its_time_with_it() -> None:
    run = only(gbs="260")
    assert isinstance(run, Run)
    assert run.job.gbs == 256 or run.job.gbs == 264
    assert run.measured_s == pytest.approx(13.5 * run.job.gbs / 260)


@pytest.mark.parametrize(
    ("words", "zero", "shard"),
    [
        ("dist-opt (ZeRO-1)", 1, 4),
        ("FSDP FULL_SHARD (ZeRO-3)", 3, 4),
        ("FSDP SHARD_GRAD_OP (ZeRO-2)", 2, 4),
        ("Megatron-FSDP shard=2", 3, 2),
        ("ZeRO-1 group=2", 1, 2),
        ("none", 0, 4),
    ],
)
def test_sharding_is_read_from_words(words: str, zero: int, shard: int) -> None:
    run = only(zero_distopt=words, pp="1", num_gpus="32", nodes="4")
    assert isinstance(run, Run)
    assert (run.strategy.zero, run.strategy.dp_shard) == (zero, shard)


def test_weights_sharded_in_a_pipeline_stay_whole_until_the_step_ends() -> None:
    run = only(zero_distopt="FSDP")
    assert isinstance(run, Run)
    assert run.strategy.zero == 1
    assert any("weights stay whole" in said for said in run.assumptions)


@pytest.mark.parametrize(
    ("words", "modules"),
    [
        ("selective", ("core_attention",)),
        ("selective:layernorm+moe_act", ("activation", "norm")),
        ("selective:mla_up_proj+mlp", ("mla_up", "mlp")),
        ("selective:RMSNorm+MLA up-proj", ("mla_up", "norm")),
    ],
)
def test_recomputed_modules_are_read_from_words(words: str, modules: tuple[str, ...]) -> None:
    run = only(recompute=words)
    assert isinstance(run, Run)
    assert run.strategy.recompute_modules == modules


def test_cuts_in_the_notes_give_the_layers_of_stages() -> None:
    run = only(layers="24", hidden="1024", heads="16", kv_heads="16", ffn="4096", notes="layer split 0, 14, 30; x")
    assert isinstance(run, Run)
    assert run.strategy.stage_layers == (12, 12)


def test_a_known_model_comes_from_the_catalog_only_with_its_own_sizes() -> None:
    known = only(model="llama2-7b", layers="32", hidden="4096", heads="32", kv_heads="32", ffn="11008", vocab="32000")
    cut = only(model="llama2-7b", layers="8", hidden="4096", heads="32", kv_heads="32", ffn="11008", vocab="32000")
    assert isinstance(known, Run)
    assert isinstance(cut, Run)
    assert known.model.name == "llama-2-7b"
    assert cut.model.num_layers == 8


def test_lora_trains_adapters_only() -> None:
    run = only(task="lora")
    assert isinstance(run, Run)
    assert run.job.trained == "adapters"


@pytest.mark.parametrize(
    ("changes", "overlap"),
    [
        ({}, "microbatch"),
        ({"vpp": "1"}, "none"),
        ({"ep": "8"}, "none"),
        ({"framework": "Megatron-LM core r0.8"}, "none"),
        ({"gpu": "GB200", "nodes": "64"}, "none"),
    ],
)
def test_dispatch_across_nodes_hides_behind_another_microbatch_where_recipes_do_so(
    changes: dict[str, str], overlap: str
) -> None:
    mixture = {"model": "qwen3-235b-a22b", "layers": "94", "hidden": "4096", "vocab": "151936", "gpu": "H100"}
    plan = {"num_gpus": "256", "nodes": "32", "tp": "2", "sp": "1", "pp": "8", "vpp": "4", "ep": "32", "dp": "16"}
    rest = {"mbs": "1", "gbs": "2048", "precision": "FP8", "framework": "Megatron-Bridge NeMo 26.02"}
    run = only(**(mixture | plan | rest | changes))
    assert isinstance(run, Run), run
    assert run.strategy.ep_overlap == overlap


def test_runs_that_differ_in_strategy_alone_share_a_group() -> None:
    first, second, other = only(), only(mbs="4"), only(gbs="512")
    assert isinstance(first, Run)
    assert isinstance(second, Run)
    assert isinstance(other, Run)
    assert first.group == second.group != other.group


@given(st.dictionaries(st.sampled_from(COLUMNS), st.sampled_from(ODD) | st.text(max_size=6), max_size=4))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_no_row_however_odd_stops_the_reader_or_the_prediction(changes: dict[str, str]) -> None:
    found = only(**changes)
    assert isinstance(found, Run | Skipped)
    if isinstance(found, Run):
        predicted = predict([found])
        assert predicted.step_s[0] > 0 or 0 in predicted.refusals


def test_a_file_with_missing_columns_and_broken_bytes_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_bytes(b"\xef\xbb\xbfid,gpu,rep_iter_time_s\na,H100,1\nb\nc,\xff\xfe,2,extra,cells\n")
    found = runs_of(read_rows(path))
    assert [each.id for each in found] == ["a", "b", "c"]
    assert all(isinstance(each, Skipped) for each in found)


def test_runs_before_and_after_a_repair_of_their_machine_are_not_compared() -> None:
    notes = 'section "sweep"; {}; measured at iteration 2; PCIe/NUMA fix on 02-25 changed speeds by 1-5%'
    before, day, after = (only(notes=notes.format(date)) for date in ("02-24", "02-25", "02-26"))
    assert isinstance(before, Run) and isinstance(day, Run) and isinstance(after, Run)
    assert before.group != day.group
    assert day.group == after.group


def test_megatron_of_2020_is_a_generation_of_its_own() -> None:
    old, newer = only(framework="DeepSpeed Megatron-LM v1.1.5 3D"), only(framework="Megatron-LM (Apr-2021)")
    assert isinstance(old, Run) and isinstance(newer, Run)
    assert (old.job.framework, newer.job.framework) == ("megatron-2020", "megatron-2021")

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measurements.others import other_runs
from benchmarks.measurements.runs import Run, Skipped
from benchmarks.prediction import predict

SAILOR = (
    "file,cluster,model,gpu_types,nodes,gpus,pp,dp,tp,mbs,gbs,stage_layers,stage_gpus,measured_s_per_iter,"
    "measured_grad_allreduce_s,measured_peak_mem_bytes\n"
    "a/plan.json,clariden,OPT-350M,GH-96,2,8,2,1,4,8,32,12|14,x,0.6,0.004,26000000000\n"
    "a/plan.json,clariden,OPT-66B,GH-96,2,8,2,1,4,8,32,12|14,x,0.6,0.004,26000000000\n"
)
SIMUMAX = (
    "case,model,parallel,layer_num,mbc,measured_ms,predicted_ms,measured_alloc_gib,predicted_alloc_gib\n"
    "deepseekv2_tp1_ep4_pp2_dp4_l4_mbc4_cef,deepseekv2,p,4,4,280,250,45,44\n"
    "llama3_70b_l12_tp2_cp4_pp1_dp1_seq32768_mbc4_cef,llama3-70b,p,12,4,1750,1590,68,68\n"
)
AMP = (
    "experiment,cluster,model,global_bs,micro_bs,tp,dp,pp,grad_acc_steps,layer_partition_cuts,predicted_s_per_iter,"
    "measured_s_per_iter,ran\n"
    'h,"4x T4",GPT-2,32,2,1,4,4,4,"[0,9,15,21,30]",1.6,1.4,1\n'
    'h,"4x T4",GPT-2,32,32,1,1,16,1,"[0,30]",13,,0\n'
    'h,"3x V100, 1x T4",GPT-2,32,2,1,4,4,4,"[0,9,15,21,30]",1.6,1.4,1\n'
)


def read(tmp_path: Path, text: str) -> list[Run | Skipped]:
    path = tmp_path / "table.csv"
    path.write_text(text)
    found = other_runs(path)
    assert found is not None
    return found


def test_sailor_counts_the_embedding_and_the_head_as_layers(tmp_path: Path) -> None:
    run, unknown = read(tmp_path, SAILOR)
    assert isinstance(run, Run)
    assert run.strategy.stage_layers == (11, 13)
    assert run.memory is not None
    assert unknown == Skipped("row 3", "table", "model unknown")


def test_simumax_cuts_models_and_reads_degrees_from_the_case(tmp_path: Path) -> None:
    first, second = read(tmp_path, SIMUMAX)
    assert isinstance(first, Run)
    assert isinstance(second, Run)
    assert (first.strategy.pp, first.strategy.ep, first.strategy.dp) == (2, 4, 4)
    assert (first.model.num_layers, first.job.gbs) == (4, 16)
    assert (second.strategy.cp, second.job.sequence_length, second.model.num_layers) == (4, 32768, 12)


def test_amp_leaves_out_what_did_not_run_and_mixed_clusters(tmp_path: Path) -> None:
    run, failed, mixed = read(tmp_path, AMP)
    assert isinstance(run, Run)
    assert run.strategy.stage_layers == (7, 6, 6, 5)
    assert isinstance(failed, Skipped)
    assert isinstance(mixed, Skipped)
    assert (failed.reason, mixed.reason) == ("did not run", "accelerators of several kinds")


def test_other_tables_are_not_taken_for_these(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("id,gpu\na,H100\n")
    assert other_runs(path) is None


def test_runs_of_one_workload_are_predicted_together_in_their_own_places(tmp_path: Path) -> None:
    runs = [each for text in (SAILOR, SIMUMAX, AMP) for each in read(tmp_path, text) if isinstance(each, Run)]
    alone = [predict([run]).step_s[0] for run in runs]
    assert np.array_equal(predict(runs).step_s, alone)
    assert not predict(runs).refusals


ODD = [
    "",
    "nan",
    "-1",
    "0",
    "1e309",
    "abc",
    "1.5",
    "[0,1]",
    "[3,1]",
    "tp3_ep5",
    "tp0",
    "llama9",
    "💥",
    "9999999999",
    "4",
]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.sampled_from([SAILOR, SIMUMAX, AMP]), st.lists(st.sampled_from(ODD), min_size=20, max_size=20), st.integers())
def test_no_row_however_odd_stops_the_reader_or_the_prediction(
    tmp_path_factory: pytest.TempPathFactory, text: str, cells: list[str], seed: int
) -> None:
    header, first, *_ = list(csv.reader(io.StringIO(text)))
    changed = [cell if seed >> i & 1 else old for i, (old, cell) in enumerate(zip(first, cells, strict=False))]
    path = tmp_path_factory.mktemp("odd") / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, changed])
    found = other_runs(path)
    assert found is not None
    (read,) = found
    if isinstance(read, Run):
        predict([read])
    else:
        assert read.reason

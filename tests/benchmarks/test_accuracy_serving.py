"""The accuracy report of serving: its shape, what it counts, and that no row stops it."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from benchmarks.accuracy import main
from benchmarks.accuracy_serving import outcomes
from benchmarks.serving_cases import case_of
from benchmarks.serving_models import MORE_MODELS
from benchmarks.serving_prediction import predict
from shardwright.models import active_parameters, parameters, read_config
from shardwright.planner.serving.simulation import Deployment, Outcome, simulate
from shardwright.planner.workload.serving import Trace

ROW = {
    "id": "a", "model": "llama3.1-8b", "quant": "FP8", "gpu": "H100", "num_gpus": "2", "mode": "agg", "tp": "2",
    "engine": "vLLM", "engine_version": "0.12.0", "isl": "1000", "osl": "100", "load_kind": "concurrency", "load": "8",
    "ttft_ms": "60", "tpot_ms": "6", "out_tok_s_gpu": "500", "source": "pages", "source_confidence": "verified",
    "spec_decode": "no (assumed)", "config_status": "stated", "notes": "", "derived_cols": "",
}  # fmt: skip
KEYS = {"rows", "predicted", "median_ape", "mean_ape", "p90_ape", "bias"}


def written(folder: Path, rows: list[dict[str, str]]) -> str:
    path = folder / "rows.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def report(folder: Path, rows: list[dict[str, str]], capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["serving", written(folder, rows), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_the_promised_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ROW | {"id": "b", "tp": "1", "out_tok_s_gpu": "600", "source": "pages"}
    unknown = ROW | {"id": "c", "model": "nobody-1b", "source": "elsewhere"}
    found = report(tmp_path, [ROW, other, unknown], capsys)
    assert {"metrics", "by_source", "layout_pairs_right", "layout_regret", "skipped"} <= set(found)
    assert set(found["metrics"]) == {"tpot", "ttft", "throughput"}
    for figures in found["metrics"].values():
        assert set(figures) == KEYS
        assert (figures["rows"], figures["predicted"]) == (3, 2)
        assert 0 <= figures["median_ape"] <= figures["p90_ape"]
    assert set(found["by_source"]) == {"pages", "elsewhere"}
    assert found["by_source"]["elsewhere"]["tpot"]["predicted"] == 0
    assert 0 <= found["layout_pairs_right"] <= 1
    assert found["layout_regret"] >= 0
    assert found["skipped"] == {"model nobody-1b is not in the catalog": 1}


def test_unverified_and_speculative_rows_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ROW, ROW | {"source_confidence": "inferred"}, ROW | {"spec_decode": "MTP1"}]
    found = report(tmp_path, rows, capsys)
    assert found["metrics"]["tpot"]["rows"] == 1
    assert sum(found["skipped"].values()) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "Abacus 9"}, "Abacus 9 is not in the catalog"),
        ({"tp": ""}, "tp not given"),
        ({"isl": "long"}, "isl is not a number"),
        ({"isl": "0.5"}, "isl or osl is not a number of tokens"),
        ({"load": "0.5", "load_kind": ""}, "load not given"),
        ({"num_gpus": "1000000"}, "more than 4096 devices"),
        ({"load": "1e9"}, "load is not a number of requests"),
        ({"ttft_ms": "?", "tpot_ms": "", "out_tok_s_gpu": ""}, "no latency or throughput given"),
        ({"model": "llama3.1-405b", "tp": "1", "num_gpus": "1"}, "does not fit in memory"),
    ],
)
def test_what_cannot_be_predicted_says_why(changes: dict[str, str], reason: str) -> None:
    assert reason in outcomes([ROW | changes])[0].reason


def test_a_figure_that_cannot_be_read_leaves_the_others() -> None:
    assert set(outcomes([ROW | {"ttft_ms": "n/a"}])[0].predicted) == {"tpot", "throughput"}


def test_names_with_dates_and_formats_are_the_catalogs_models() -> None:
    assert outcomes([ROW | {"model": "Llama-3.1-8B-Instruct-FP8"}])[0].reason == ""


def test_models_beyond_the_catalog_have_the_published_size() -> None:
    graph = read_config(MORE_MODELS["qwen35397b"], name="qwen3.5-397b")
    assert parameters(graph) == pytest.approx(397e9, rel=0.01)
    assert active_parameters(graph) == pytest.approx(17e9, rel=0.05)
    large = ROW | {"model": "Qwen3.5-397B-A17B", "quant": "BF16", "gpu": "H200", "num_gpus": "8", "tp": "8", "ep": "8"}
    assert outcomes([large])[0].reason == ""


def test_no_row_however_odd_stops_the_report() -> None:
    rng = random.Random(0)
    odd = ["", "abc", "-1", "nan", "inf", "1e30", "0", "0.5", "3", "?", "None", "12-16"]
    names = [name for name in ROW if name not in ("source", "source_confidence", "spec_decode")]
    rows = [ROW | {rng.choice(names): rng.choice(odd) for _ in range(2)} for _ in range(60)]
    assert len(outcomes(rows)) == 60


def test_a_missing_file_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serving", "none.csv"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("gone", ["gpu", "load_kind", "source_confidence"])
def test_another_table_is_one_line_that_names_what_it_lacks(
    gone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, [{name: value for name, value in ROW.items() if name != gone}])
    assert main(["serving", path]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and gone in lines[0]


def test_disaggregated_runs_that_state_a_release_of_dynamo_ran_the_engine_it_ships() -> None:
    row = ROW | {"engine": "TensorRT-LLM", "engine_version": "0.8.1.post1", "source": "(InferenceX measurements)"}
    pools = {f"{phase}_{name}": "1" for phase in ("prefill", "decode") for name in ("tp", "workers")}
    assert case_of(row | {"mode": "disagg", "tp": "", **pools}).engine_version == "1.2.0"
    assert case_of(row).engine_version.startswith("0.8.1")


@pytest.mark.parametrize(("isl", "shared"), [("1024", True), ("8192", False)])
def test_prefill_workers_have_the_attention_of_their_recipe_however_declared(isl: str, shared: bool) -> None:
    row = ROW | {"engine": "TensorRT-LLM", "model": "deepseek-r1", "gpu": "H200", "source": "(InferenceX measurements)"}
    row |= {"mode": "disagg", "isl": isl, "num_gpus": "16", "prefill_workers": "1", "decode_workers": "1"}
    row |= {"decode_tp": "8", "decode_ep": "8", "prefill_ep": "8"}
    for tp, dp in (("8", "1"), ("1", "8")):
        prefill, decode = case_of(row | {"prefill_tp": tp, "prefill_dp": dp}).layouts
        assert (prefill.tp, prefill.attn_dp) == ((1, 8) if shared else (8, 1))
        assert decode.tp == 8


def test_requests_of_a_data_set_differ_in_length_and_keep_their_means() -> None:
    row = ROW | {"isl": "215.2", "osl": "180", "load_kind": "qps", "load": "4", "notes": "1000 prompts of ShareGPT"}
    case = case_of(row)
    seen: list[Trace] = []

    def run(deployment: Deployment, trace: Trace, concurrency: int | None) -> Outcome:
        seen.append(trace)
        return simulate(deployment, trace, concurrency)

    predict(case, run=run)
    assert len(seen[0]) == 1000
    assert len(set(seen[0].output_tokens.tolist())) > 100
    assert seen[0].output_tokens.mean() == pytest.approx(180, rel=0.02)

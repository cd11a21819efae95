"""Fitting serving figures: runs timed again from their steps, and figures that come back from data made with them."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from benchmarks.fit_serving import START, Fit
from benchmarks.serving_cases import Case, case_of
from benchmarks.serving_prediction import machine_of, predict
from benchmarks.serving_record import recorded

ROW = {
    "model": "llama3.1-8b", "quant": "BF16", "gpu": "H100", "num_gpus": "2", "mode": "agg", "tp": "2",
    "engine": "vLLM", "engine_version": "0.12.0", "isl": "1000", "osl": "100", "load_kind": "concurrency", "load": "8",
    "ttft_ms": "60", "tpot_ms": "6", "out_tok_s_gpu": "500", "source": "pages", "source_confidence": "verified",
}  # fmt: skip
POOLS = {f"{phase}_{name}": "1" for phase in ("prefill", "decode") for name in ("tp", "workers")}
ROWS = {
    "closed loop": ROW,
    "static batch": ROW | {"load_kind": "static_batch", "load": "16"},
    "all at once": ROW | {"load_kind": "max_throughput", "load": "", "ttft_ms": "", "tpot_ms": "", "isl": "128"},
    "pools": ROW | POOLS | {"mode": "disagg", "tp": ""},
    "experts": ROW | {"model": "gpt-oss-20b", "quant": "MXFP4"},
    "replicas": ROW | {"tp": "1", "load": "32"},
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_recorded_run_says_what_a_new_simulation_would(kind: str) -> None:
    case = case_of(ROWS[kind])
    machine = machine_of(case)
    run = recorded(case, machine)
    assert run.predicted(machine) == pytest.approx(predict(case, machine))
    engine = msgspec.structs.replace(machine.engine, gemm=1.2, read=1.3, sequence_s=3e-5, request_s=0.02, expert=1.2)
    slower = replace(machine, engine=engine)
    assert run.predicted(slower) == pytest.approx(predict(case, slower), rel=0.04)


def test_figures_come_back_from_measurements_made_with_them(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(START.read_text())
    loads = [("1000", "100", "4"), ("1000", "400", "64"), ("4000", "200", "16"), ("200", "200", "128")]
    cases = [case_of(ROW | {"isl": isl, "osl": osl, "load": load}) for isl, osl, load in loads]
    fit = Fit(document, document, cases, prior=0.01)
    fit.figures.engines["vllm-v1"] = msgspec.structs.replace(fit.figures.engines["vllm-v1"], gemm=1.25, read=0.8)
    truth = [_measured(case, predict(case, fit.figures.machine(place))) for place, case in enumerate(cases)]
    fitted = Fit(document, document, truth, prior=0.01)
    used = np.ones(len(truth), dtype=bool)
    fitted.record(used)
    before = fitted.residuals()
    fitted.improve(used, 3)
    after = fitted.residuals()
    assert after.errors("tpot", used).mean() < 0.3 * before.errors("tpot", used).mean()
    assert after.errors("tpot", used).mean() < 0.03
    capsys.readouterr()
    fitted.leave_out({"first": np.arange(len(truth)) == 0})
    assert capsys.readouterr().out.startswith("first: tpot ")
    assert np.array_equal(fitted.residuals().values, after.values)


def _measured(case: Case, metrics: dict[str, float]) -> Case:
    return replace(case, metrics=metrics)

"""`shardwright serve` as a user meets it."""

from __future__ import annotations

import json

import pytest

from shardwright.planner.cli.main import run
from shardwright.planner.cli.serving_options import parsed_pool
from shardwright.planner.workload.serving_layout import Layout

JOB = ["serve", "llama-3.1-8b", "--cluster", "dgx-h100:1", "--isl", "500", "--osl", "50"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pool", "0xtp1"], ["at least 1", "0"]),
        (["--pool", "1xtp1", "--tp", "8"], ["--tp", "training strategy"]),
        (["--pool", "1xtp1", "--gbs", "8"], ["--gbs", "training strategy"]),
        (["--pool", "1xtp1", "--acceptance", "0.5"], ["--draft-tokens"]),
    ],
)
def test_pools_that_cannot_serve_and_options_of_training_are_refused(capsys, arguments, words):
    load = ["--isl", "100", "--osl", "20", "--rate", "1"]
    assert run(["estimate", "gpt2", "--cluster", "dgx-a100:1", *load, *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words)


def test_a_pool_without_a_cache_is_told_by_name(tmp_path, capsys):
    path = tmp_path / "plan.json"
    assert run([*ESTIMATE, "--pool", "tp2", "-o", str(path)]) == 0
    plan = json.loads(path.read_text())
    plan["pools"][0]["cache_tokens"] = 0
    path.write_text(json.dumps(plan))
    assert run(["validate", str(path)]) == 5
    assert "cache_tokens" in capsys.readouterr().err


def test_a_held_degree_that_is_not_legal_names_those_that_are(capsys):
    job = ["serve", "llama-3.1-8b", "--cluster", "dgx-h100:1", "--isl", "100", "--osl", "20", "--rate", "1"]
    assert run([*job, "--tp", "3"]) == 3
    assert "tp may be 1, 2, 4, 8" in capsys.readouterr().err
    assert run([*job, "--mode", "apart"]) == 2
    assert "disaggregated" in capsys.readouterr().err


def test_a_load_within_its_targets_ends_with_a_valid_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([*JOB, "--rate", "4", "--ttft", "1s", "--tpot", "50ms", "-o", "plan.json", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["targets_met"]
    assert plan["prediction"]["ttft"]["at_percentile_s"] <= 1.0
    assert run(["validate", "plan.json"]) == 0


def test_the_same_load_gives_the_same_bytes(capsys):
    outputs = []
    for _ in range(2):
        assert run([*JOB, "--rate", "4", "--json"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_a_tampered_serving_plan_does_not_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([*JOB, "--rate", "4", "--ttft", "1s", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    plan["prediction"]["ttft"]["at_percentile_s"] = 5.0
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert run(["validate", "plan.json"]) == 5
    assert "prediction.ttft.at_percentile_s is 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--rate", "4", "--tpot", "1us"], 3, "nearest attainable"),
        (["--rate", "-4"], 2, "rate"),
        (["--rate", "4", "--ttft", "1"], 2, "--ttft '1' must be a positive number with a unit, such as 500ms"),
        (["--rate", "4", "--isl", "-5"], 2, "--isl must be at least 1 but got -5"),
        (["--rate", "4", "--seed", "-1"], 2, "seed must be a whole number from 0"),
        (["--rate", "4", "--objective", "luck"], 2, "luck"),
        (["--rate", "4", "--quantization", "fp7"], 2, "fp7"),
        (["--trace", "none.csv"], 2, "none.csv"),
    ],
)
def test_wrong_or_unattainable_requests_are_one_line(capsys, arguments, code, word):
    assert run([*JOB, *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert word in error


@pytest.mark.parametrize(
    ("name", "word"),
    [("bert-base", "encoder-only"), ("t5-3b", "encoder-decoder"), ("wan2.1-t2v-14b", "it makes videos, not tokens")],
)
def test_models_that_do_not_only_decode_are_refused_by_what_they_are(capsys, name, word):
    assert run(["serve", name, "--cluster", "hgx-h100", "--isl", "100", "--osl", "10", "--rate", "1"]) == 2
    assert word in capsys.readouterr().err


ESTIMATE = ["estimate", "llama-3.1-8b", "--cluster", "dgx-h100:1", "--isl", "500", "--osl", "50", "--rate", "4"]


def test_a_given_deployment_is_estimated_and_its_plan_holds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([*ESTIMATE, "--pool", "prefill:1xtp2", "--pool", "decode:2xtp1", "-o", "plan.json", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(pool["phase"], pool["workers"], pool["layout"]["tp"]) for pool in plan["pools"]] == [
        ("prefill", 1, 2),
        ("decode", 2, 1),
    ]
    assert "leaves them out" in plan["idle"]
    assert run(["validate", "plan.json"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ([], 2, "--pool"),
        (["--pool", "tp4pp2"], 2, "2xtp4,pp2"),
        (["--pool", "4xtp4"], 2, "need 16 devices"),
        (["--pool", "tp3"], 2, "divide the 32 heads"),
        (["--pool", "tp4,ep0"], 2, "ep must be at least 1"),
        (["--pool", "prefill:tp2"], 2, "need each other"),
        (["--pool", "tp2", "--pool", "decode:tp2"], 2, "need each other"),
        (["--pool", "tp2", "--tpot", "fast"], 2, "500ms"),
    ],
)
def test_wrong_estimates_are_one_line(capsys, arguments, code, word):
    assert run([*ESTIMATE, *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert word in error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tp4", ("aggregated", Layout(tp=4), 1)),
        ("2xtp4,pp2", ("aggregated", Layout(tp=4, pp=2), 2)),
        ("decode: 2 x dp8 ep8", ("decode", Layout(attn_dp=8, ep=8), 2)),
        ("prefill:tp4,ep2", ("prefill", Layout(tp=4, ep=2, moe_tp=2), 1)),
    ],
)
def test_pools_are_read_as_plans_write_them(text, expected):
    assert parsed_pool(text) == expected

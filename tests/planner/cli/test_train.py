"""Every objective, technique and constraint of the library can be reached from the command line."""

from __future__ import annotations

import inspect
import json

import pytest

from shardwright.planner.cli.estimate import estimate
from shardwright.planner.cli.main import run
from shardwright.planner.cli.train import train
from shardwright.planner.cli.training_options import TECHNIQUES
from shardwright.planner.strategy import Constraints, Strategy
from shardwright.planner.workload.training import Objective, Technique

SMALL = ["gpt2", "--cluster", "dgx-a100:1", "--gbs", "32", "--seq", "1024"]


def plan(capsys, *arguments: str) -> dict[str, object]:
    assert run(["train", *SMALL, *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_field_of_a_strategy_has_an_option():
    assert set(Constraints.__struct_fields__) <= set(inspect.signature(train).parameters)
    assert set(Strategy.__struct_fields__) <= set(inspect.signature(estimate).parameters)
    assert Technique.__args__ == TECHNIQUES


@pytest.mark.parametrize("objective", Objective.__args__)
def test_every_objective_gives_a_plan_that_holds(tmp_path, capsys, objective):
    path = str(tmp_path / "plan.json")
    made = plan(capsys, "--objective", objective, "--tokens", "1B", "--price", "2", "-o", path)["optimality"]
    assert made["objective"] == objective
    assert made["status"] == "optimal"
    assert made["sense"] == ("max" if objective == "tokens_per_s_per_device" else "min")
    assert run(["validate", path]) == 0


def test_held_techniques_reach_the_plan(capsys):
    held = ["--dp-replicate", "2", "--sync-period", "50", "--offload-optimizer", "cpu", "--cpu-tier", "100GB@20GB/s"]
    made = plan(capsys, *held, "--zero", "3", "--weight-shard", "2", "--no-sp")
    strategy = made["strategy"]
    assert (strategy["dp_replicate"], strategy["sync_period"], strategy["weight_shard"]) == (2, 50, 2)
    assert strategy["offload_optimizer"] == "cpu"
    assert made["job"]["cpu_tier"]["bytes_per_s"] == 20e9


def test_exploring_all_and_the_spread_of_bandwidths_reach_the_plan(capsys):
    made = plan(capsys, "--explore", "all", "--robustness", "5", "--time-limit", "10s", "--cp", "1", "--mbs", "1")
    assert made["job"]["explore"] == list(TECHNIQUES)
    assert made["job"]["time_limit_s"] == 10.0
    assert made["robustness"]["samples"] == 5


def test_a_search_held_to_little_work_says_what_it_may_have_missed(capsys):
    node = ["llama-3.1-8b", "--cluster", "dgx-h100:1", "--gbs", "64", "--seq", "4096", "--json"]
    made = []
    for more in ([], ["--work", "1"]):
        assert run(["train", *node, *more]) == 0
        made.append(json.loads(capsys.readouterr().out)["optimality"])
    free, held = made
    assert held["bound"] < free["bound"] == free["value"] <= held["value"]


def test_a_frontier_is_shown_and_written(tmp_path, capsys):
    path = tmp_path / "front.json"
    pair = ["--pareto", "step_s,peak_memory_bytes", "--cp", "1"]
    assert run(["train", *SMALL, *pair, "-o", str(path)]) == 0
    assert "Compromises" in capsys.readouterr().out
    points = json.loads(path.read_text())["points"]
    assert [point["first"] for point in points] == sorted(point["first"] for point in points)


def test_a_job_file_may_hold_a_degree_to_one_value(tmp_path, capsys):
    path = tmp_path / "job.yaml"
    path.write_text("gbs: 32\nsequence_length: 1024\nconstraints: {tp: 2, recompute: none, sp: false}\n")
    assert run(["train", "gpt2", "--cluster", "dgx-a100:1", "--job", str(path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["strategy"]["tp"] == 2
    assert made["job"]["constraints"]["recompute"] == ["none"]


def test_several_clusters_share_one_frontier(capsys):
    more = ["--cluster", "dgx-a100:2", "--pareto", "step_s,tokens_per_s_per_device", "--cp", "1", "--json"]
    assert run(["train", *SMALL, *more]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert {point["cluster"] for point in points} == {"dgx-a100:1", "dgx-a100:2"}
    rates = [point["second"] for point in points]
    assert rates == sorted(rates)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--pareto", "step_s"], 2, ["--pareto", "two of step_s", "energy_j"]),
        (["--pareto", "step_s,step_s"], 2, ["two different"]),
        (["--cluster", "dgx-a100:2"], 2, ["--pareto"]),
        (["--objective", "days"], 2, ["token_budget"]),
        (["--objective", "beauty"], 2, ["objective", "beauty"]),
        (["--tokens", "many"], 2, ["many", "15T"]),
        (["--tokens", "1e99T"], 2, ["token_budget", "at most 1e18"]),
        (["--robustness", "1000000000"], 2, ["robustness_samples", "at most 10000"]),
        (["--cpu-tier", "100GB"], 2, ["--cpu-tier", "SIZE@RATE"]),
        (["--work", "0"], 2, ["--work 0", "at least 1"]),
        (["--explore", "magic"], 2, ["explore", "magic", "low_communication"]),
        (["--schedule", "zbv"], 2, ["schedule", "zbv", "zb-v"]),
        (["--time-limit", "1us"], 3, ["time binds"]),
        (["--time-limit", "1us", "--pareto", "step_s,peak_memory_bytes"], 3, ["time binds"]),
    ],
)
def test_what_cannot_be_is_one_line(capsys, arguments, code, words):
    assert run(["train", *SMALL, *arguments]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]

"""`shardwright experts` as a user meets it, on a small routing made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tiny_moe import route
from shardwright.planner.cli.main import run


@pytest.fixture
def routing(tmp_path, monkeypatch) -> Path:
    """Three layers of eight experts: tokens of expert e go to expert e + 4, and expert 0 is twice as busy."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    first = random.choice(8, size=400, p=np.array([2, 1, 1, 1, 1, 1, 1, 1]) / 9)
    np.save("ids.npy", np.stack([first, (first + 4) % 8, first], axis=1)[:, :, None])
    return tmp_path / "ids.npy"


def test_tokens_stay_home_where_the_routing_lets_them(routing, capsys):
    command = ["experts", "--routing", "ids.npy", "--gpus", "2", "--objective", "transitions", "-o", "plan.json"]
    assert run([*command, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["optimality"]["status"] == "optimal"
    assert plan["scores"][0]["hops_per_token"] == pytest.approx(0.0)
    assert all(len(gpus) == 1 for layer in plan["placement"] for gpus in layer)
    assert run(["validate", "plan.json"]) == 0


def test_copies_of_the_busiest_expert_even_the_load(routing, capsys):
    ratios = []
    for redundant in ("0", "4"):
        command = ["experts", "--routing", "ids.npy", "--gpus", "4", "--objective", "load", "--redundant", redundant]
        assert run([*command, "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        ratios.append(plan["scores"][0]["load_ratio"])
        assert ratios[-1] == pytest.approx(plan["optimality"]["value"])
    assert plan["optimality"]["bound"] <= ratios[1] < ratios[0]


def test_the_plan_is_shown_and_exported(routing, capsys):
    assert run(["experts", "--routing", "ids.npy", "--gpus", "2", "-o", "plan.json"]) == 0
    assert "Replayed on" in capsys.readouterr().out
    assert run(["export", "plan.json", "--to", "sglang-experts"]) == 0
    assert len(json.loads(capsys.readouterr().out)["physical_to_logical_map"]) == 3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--routing", "none.npy", "--gpus", "2"], "none.npy"),
        (["--routing", "ids.npy", "--gpus", "2", "--budget", "1MB"], "give the plan in force with --current"),
        (["--routing", "ids.npy"], "--gpus"),
        (["--routing", "ids.npy", "--gpus", "0"], "gpus"),
        (["--routing", "ids.npy", "--gpus", "2", "--objective", "luck"], "luck"),
        (["--routing", "ids.npy", "--gpus", "2", "--redundant", "-1"], "redundant"),
        (["--routing", "ids.npy", "--gpus", "2", "--slots-per-gpu", "3"], "slots"),
        (["--routing", "nan.json", "--gpus", "2"], "nan.json"),
        (["--routing", "negative.json", "--gpus", "2"], "negative.json"),
        (["--routing", "ragged.json", "--gpus", "2"], "ragged.json"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(routing, capsys, arguments, word):
    Path("nan.json").write_text('{"logical_count": [[1, NaN]]}')
    Path("negative.json").write_text('{"logical_count": [[1, -2], [3, 4]]}')
    Path("ragged.json").write_text('{"logical_count": [[1, 2], [3]]}')
    assert run(["experts", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert word in error


def test_a_plan_in_force_is_turned_into_another_within_a_budget(routing, capsys):
    command = ["experts", "--routing", "ids.npy", "--gpus", "4", "--objective", "load", "--redundant", "4"]
    assert run([*command, "-o", "plan.json"]) == 0
    again = [*command, "--current", "plan.json", "--expert-size", "40MB", "--budget", "80MB", "--json"]
    capsys.readouterr()
    assert run(again) == 0
    assert json.loads(capsys.readouterr().out)["migration"]["bytes"] <= 80e6


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--current", "none.json", "--expert-size", "1MB"], "none.json"),
        (["--current", "plan.json"], "expert-size"),
        (["--current", "plan.json", "--expert-size", "1"], "size"),
        (["--current", "plan.json", "--expert-size", "1MB", "--target", "0.5"], "target"),
        (["--workload-weight", "-1"], "workload-weight"),
    ],
)
def test_a_re_plan_without_what_it_needs_is_one_line_and_exit_code_2(routing, capsys, arguments, word):
    command = ["experts", "--routing", "ids.npy", "--gpus", "4", "--objective", "load"]
    assert run([*command, "-o", "plan.json"]) == 0
    capsys.readouterr()
    assert run([*command, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert word in error


def test_a_serving_plan_takes_load_and_reach_from_an_experts_plan(routing, capsys):
    command = ["experts", "--routing", "ids.npy", "--gpus", "8", "--objective", "load", "--work", "100000"]
    assert run([*command, "-o", "placed.json"]) == 0
    job = ["estimate", "mixtral-8x7b", "--cluster", "dgx-h100:1", "--pool", "1xdp8,ep8", "--isl", "500", "--osl", "20"]
    capsys.readouterr()
    assert run([*job, "--rate", "4", "--experts", "placed.json", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert any("by the experts plan" in line for line in plan["assumptions"])
    assert "placed.json" in [each["source"] for each in plan["inputs"]]
    assert run([*job, "--rate", "4", "--experts", "ids.npy"]) in (2, 5)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_guides_first_commands_work_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("trace.npy", route(b"Experts of a small text, placed as the guide says. " * 12, layers=3))
    command = ["experts", "--routing", "trace.npy", "--gpus", "4", "--held-out", "0.2", "--work", "100000"]
    assert run([*command, "-o", "plan.json"]) == 0
    assert "held out" in capsys.readouterr().out
    again = [*command, "--current", "plan.json", "--expert-size", "44MB", "--budget", "0B", "--json"]
    assert run(again) == 0
    assert json.loads(capsys.readouterr().out)["migration"]["moved"] == 0

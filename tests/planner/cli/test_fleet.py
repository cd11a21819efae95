"""`shardwright fleet` as a user meets it, on small configurations made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shardwright.planner.cli.main import run

CONFIG = {
    "gpu_info": {
        "small": {"cost": 1.0, "tputs": [[8.0, 2.0], [4.0, 0]]},
        "large": {"cost": 3.0, "tputs": [[20.0, 8.0], [10.0, 4.0]]},
    },
    "workload_distribution": [[0.5, 0.25], [0.125, 0.125]],
    "total_request_rate": 8.0,
    "slice_factor": 2,
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(json.dumps(CONFIG))


def test_a_plan_is_printed_written_and_holds(capsys):
    assert run(["fleet", "--melange", "config.json", "-o", "plan.json"]) == 0
    shown = capsys.readouterr().out
    assert "small" in shown
    assert "proven optimal" in shown
    assert run(["validate", "plan.json"]) == 0


def test_json_is_the_plan_and_options_replace_the_files_numbers(capsys):
    assert run(["fleet", "--melange", "config.json", "--rate", "1", "--slices", "4", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["kind"] == "fleet"
    assert plan["rental"]["slices"] == 4
    assert sum(each["rate_per_s"] for each in plan["rental"]["classes"]) == pytest.approx(1)
    assert plan["optimality"]["value"] == 3.0


def helix_case() -> dict[str, object]:
    """Three equal nodes in a ring of links, four layers."""
    links = {f"{a}_{b}": 50.0 for a in range(3) for b in range(3) if a != b}
    links |= {f"source_{a}": 50.0 for a in range(3)} | {f"{a}_sink": 50.0 for a in range(3)}
    throughput = {"box": {"1": 9.0, "2": 6.0, "3": 1.0}}
    return {
        "layers": 4,
        "node_types": ["box"] * 3,
        "throughput_tokens_per_s": throughput,
        "links_tokens_per_s": links,
    }


def test_layers_are_placed_on_a_given_cluster(capsys):
    Path("case.json").write_text(json.dumps(helix_case()))
    assert run(["fleet", "--helix", "case.json", "-o", "plan.json"]) == 0
    assert "proven optimal" in capsys.readouterr().out
    assert run(["validate", "plan.json"]) == 0
    capsys.readouterr()
    assert run(["fleet", "--helix", "case.json", "--json", "--latency", "20s"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["optimality"]["value"] == 6.0
    assert plan["placement"]["capped"]["token_s"] <= 20


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--helix", "none.json"], 2, "expected a file"),
        (["--helix", "case.json", "--melange", "config.json"], 2, "not both"),
        (["--helix", "case.json", "--latency", "10"], 2, "with a unit"),
        (["--helix", "case.json", "--max-stages", "1"], 3, "needs 2"),
        (["--helix", "config.json"], 2, "missing required field"),
    ],
)
def test_a_wrong_request_for_a_cluster_is_one_line(options, code, word, capsys):
    Path("case.json").write_text(json.dumps(helix_case()))
    assert run(["fleet", *options]) == code
    message = capsys.readouterr().err
    assert word in message
    assert message.count("\n") == 1


def test_a_changed_count_is_caught(capsys):
    assert run(["fleet", "--melange", "config.json", "-o", "plan.json"]) == 0
    document = json.loads(Path("plan.json").read_text())
    document["rental"]["rented"][0]["count"] -= 1
    if document["rental"]["rented"][0]["count"] == 0:
        del document["rental"]["rented"][0]
    Path("plan.json").write_text(json.dumps(document))
    capsys.readouterr()
    assert run(["validate", "plan.json", "--json"]) == 5
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any("are rented" in problem for problem in problems)


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"workload_distribution": [[0.5, 0.25], [0.125, 0.25]]}, 2, "sums to 1.125"),
        ({"gpu_info": {"small": {"cost": -1, "tputs": [[1, 1], [1, 1]]}}}, 2, "gpu_info.small.cost"),
        ({"gpu_info": {"small": CONFIG["gpu_info"]["small"]}}, 3, "input 1, output 1"),
    ],
)
def test_bad_input_is_one_line(capsys, changes, code, word):
    Path("config.json").write_text(json.dumps(CONFIG | changes))
    assert run(["fleet", "--melange", "config.json"]) == code
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert word in error


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--melange"),
        (["--melange", "none.json"], "none.json"),
        (["--melange", "config.json", "--rate", "-1"], "total_request_rate"),
        (["--melange", "config.json", "--fractional", "--slices", "2"], "--slices"),
    ],
)
def test_wrong_options_are_one_line(capsys, arguments, word):
    assert run(["fleet", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert word in error

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
        (["--helix", "case.json", "--max-stages", "1"], 3, "2 are needed"),
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
        ({"gpu_info": {"small": {"cost": 1, "tputs": [[1e-300, 1], [1, 1]]}}}, 3, "input 0, output 0"),
        ({"gpu_info": {"small": {"cost": 1e308, "tputs": [[1, 1], [1, 1]]}}}, 2, "gpu_info.small.cost"),
        ({"total_request_rate": 1e300}, 2, "total_request_rate"),
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


JOB = """
models:
  - model: chat
    rate_per_s: 10
    lengths: [{isl: 100, osl: 50, weight: 3}, {isl: 2000, osl: 200}]
offers:
  - {gpu: small, usd_per_hour: 1.0}
  - {gpu: large, usd_per_hour: 3.0, region: east, most: 9}
tables:
  - {model: chat, gpu: small, requests_per_s: [4, 0.4]}
  - {model: chat, gpu: large, requests_per_s: [9, 2.5]}
"""


def test_a_job_file_is_planned_and_options_are_put_over_it(capsys):
    Path("job.yaml").write_text(JOB)
    assert run(["fleet", "--offers", "job.yaml", "--json"]) == 0
    free = json.loads(capsys.readouterr().out)
    assert free["optimality"]["value"] == 5.0
    command = ["fleet", "--offers", "job.yaml", "--spare", "1", "--error", "0.1", "-o", "plan.json"]
    assert run([*command, "--what-if", "rate=2", "--what-if", "without=large"]) == 0
    shown = capsys.readouterr().out
    assert "Withstands" in shown
    assert "insurance costs" in shown
    assert "what if rate=2" in shown
    assert run(["validate", "plan.json"]) == 0


def test_a_fleet_larger_than_any_is_remarked(capsys):
    Path("job.yaml").write_text(JOB.replace("rate_per_s: 10", "rate_per_s: 1000000").replace(", most: 9", ""))
    assert run(["fleet", "--offers", "job.yaml", "-o", "plan.json"]) == 0
    assert "GPUs: more than the largest clusters" in " ".join(capsys.readouterr().out.split())
    assert any("GPUs can be had" in line for line in json.loads(Path("plan.json").read_text())["assumptions"])
    Path("job.yaml").write_text(JOB)
    assert run(["fleet", "--offers", "job.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "largest clusters" not in shown
    assert "100.0 %" in shown.partition("One GPU type alone")[2].partition("Route")[0]


def test_insurance_under_a_budget_is_told_as_what_it_takes(capsys):
    Path("job.yaml").write_text(JOB + "objective: throughput\nbudget_usd_per_hour: 9\nerror: {spread: 0.1}\n")
    assert run(["fleet", "--offers", "job.yaml", "-o", "plan.json"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    rental = json.loads(Path("plan.json").read_text())["rental"]
    without = rental["insurance"]["usd_per_hour_without"]
    assert f"insurance costs {without - rental['carried']:.4g} of {without:.4g}" in shown


def test_doing_without_a_gpu_lifts_its_quota_too(capsys):
    quotas = "quotas: [{name: few, gpus: [large], most: 5}, {name: east, regions: [east], most: 5}]\n"
    Path("job.yaml").write_text(JOB + quotas)
    assert run(["fleet", "--offers", "job.yaml", "--what-if", "without=large", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["alternatives"][-1]["label"] == "what if without=large"


def test_a_plan_is_planned_again_from_what_runs(capsys):
    Path("job.yaml").write_text(JOB)
    assert run(["fleet", "--offers", "job.yaml", "-o", "plan.json"]) == 0
    capsys.readouterr()
    command = ["fleet", "--offers", "job.yaml", "--current", "plan.json", "--start-usd", "5"]
    assert run([*command, "--json", "-o", "again.json"]) == 0
    change = json.loads(capsys.readouterr().out)["rental"]["change"]
    assert change["started"] == [0, 0]
    assert change["dropped"] == []
    assert run(["validate", "again.json"]) == 0
    first = Path("again.json").read_bytes()
    assert run([*command, "-o", "again.json"]) == 0
    assert Path("again.json").read_bytes() == first


def test_a_fleet_does_not_start_from_a_plan_that_does_not_hold(capsys):
    Path("job.yaml").write_text(JOB)
    assert run(["fleet", "--offers", "job.yaml", "-o", "plan.json"]) == 0
    document = json.loads(Path("plan.json").read_text())
    document["rental"]["rented"][0]["count"] += 1
    Path("plan.json").write_text(json.dumps(document))
    capsys.readouterr()
    assert run(["fleet", "--offers", "job.yaml", "--current", "plan.json"]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "--current plan.json" in lines[0] and "make the plan anew" in lines[0]


def test_hours_of_a_schedule_are_followed(capsys):
    Path("job.yaml").write_text(JOB.partition("offers:")[2].join(["offers:", ""]))
    Path("hours.csv").write_text("hour,mean_rps\n0,2\n1,10\n2,5\n")
    Path("lengths.json").write_text('[{"isl": 100, "osl": 50, "weight": 3}, {"isl": 2000, "osl": 200}]')
    command = ["fleet", "chat", "--offers", "job.yaml", "--lengths", "lengths.json", "--hours", "hours.csv"]
    assert run([*command, "--json", "-o", "plan.json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [record["source"] for record in plan["inputs"]] == ["job.yaml", "lengths.json", "hours.csv", "memory:job"]
    assert run(["validate", "plan.json"]) == 0
    assert [hour["multiple"] for hour in plan["rental"]["schedule"]["hours"]] == [0.2, 1.0, 0.5]
    assert run(command) == 0
    assert "on average" in capsys.readouterr().out


def test_catalog_gpus_and_prices_serve_a_catalog_model(capsys):
    command = ["fleet", "llama-3.1-8b", "--gpus", "a10g,a100-80gb", "--isl", "500", "--osl", "100", "--tpot", "60ms"]
    assert run([*command, "--rate", "5", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["rental"]["replicas"][0]["pools"][0]["degrees"]["tp"] >= 1
    assert run([*command, "--budget", "6", "--json"]) == 0
    most = json.loads(capsys.readouterr().out)
    assert most["optimality"]["sense"] == "max"
    assert most["rental"]["usd_per_hour"] <= 6


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--offers", "job.yaml", "--rate", "3"], "--rate belongs to a model"),
        (["--offers", "job.yaml", "--isl", "3"], "belongs to a model"),
        (["chat", "--offers", "job.yaml", "--isl", "3"], "--osl"),
        (["llama-3.1-8b", "--gpus", "a10g", "--isl", "9", "--osl", "9"], "--rate is missing"),
        (["llama-3.1-8b", "--gpus", "abacus", "--isl", "9", "--osl", "9", "--rate", "1"], "abacus"),
        (["llama-3.1-8b", "--gpus", "a10g,,l4", "--isl", "9", "--osl", "9", "--rate", "1"], "a name is empty"),
        (["--offers", "tier.yaml"], "on-demand, spot, reserved"),
        (["llama-3.1-8b", "--gpus", "h800", "--isl", "9", "--osl", "9", "--rate", "1"], "no price"),
        (["llama-3.1-8b", "--isl", "9", "--osl", "9", "--rate", "1"], "--gpus"),
        (["--melange", "config.json", "--spare", "1"], "leave spare out"),
        (["--melange", "config.json", "--hop", "1ms"], "leave hop out"),
        (["--helix", "case.json", "--rate", "1"], "leave rate out"),
        (["--offers", "job.yaml", "--max-stages", "2"], "leave max-stages out"),
        (["--offers", "job.yaml", "--fractional", "--slices", "2"], "leave --slices out"),
        (["--offers", "none.yaml"], "none.yaml"),
        (["--offers", "typo.yaml"], "prise"),
        (["--offers", "job.yaml", "--current", "config.json"], "config.json"),
        (["--offers", "job.yaml", "--current", "old.json", "-o", "./old.json"], "name another file"),
    ],
)
def test_wrong_jobs_are_one_line(capsys, arguments, word):
    Path("job.yaml").write_text(JOB)
    Path("typo.yaml").write_text(JOB.replace("usd_per_hour: 1.0", "usd_per_hour: 1.0, prise: 2"))
    Path("tier.yaml").write_text(JOB.replace("usd_per_hour: 1.0", "usd_per_hour: 1.0, tier: cheap"))
    assert run(["fleet", *arguments]) in (2, 5)
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert word in error

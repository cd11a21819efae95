"""A plan that is not what its job makes of it is refused: every single edit, stale offers, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from shardwright.planner import dump_plan, plan_fleet
from shardwright.planner.cli.main import run
from shardwright.planner.fleet.melange import melange_inputs
from shardwright.planner.fleet.planning import plan_problem
from shardwright.planner.validate import validate_plan
from tests.planner.cli.test_fleet import CONFIG, JOB
from tests.planner.fleet.edits import survivors
from tests.planner.fleet.instances import plan, two_gpus, two_regions
from tests.planner.fleet.test_columns import job

HOURS = [("0", 0.3), ("1", 0.0), ("2", 0.6), ("3", 1.0)]
OFFERS = [
    {"gpu": "small", "usd_per_hour": 1.0, "watts": 100, "most": 9},
    {"gpu": "large", "usd_per_hour": 3.0, "watts": 500, "instance_gpus": 2},
]
CAPS = {
    "offers": OFFERS,
    "power": [{"watts": 5000, "oversubscription": 0.1}],
    "budget_usd_per_hour": 40.0,
    "quotas": [{"name": "few", "gpus": ["large"], "most": 9}],
}
MADE = {
    "caps": lambda: plan(two_gpus(**CAPS)),
    "losses": lambda: plan(two_regions(failures={"replicas": 1, "spot": True})),
    "hours": lambda: plan(two_gpus(hours=HOURS, failures={"replicas": 1}, switching={"usd_per_start": 2.0})),
    "error": lambda: plan(two_gpus(error={"spread": 0.1})),
    "change": lambda: plan(two_gpus(current=[{"gpu": "large", "count": 3}], **CAPS)),
    "budget": lambda: plan(two_gpus(objective="throughput", budget_usd_per_hour=12.0)),
    "catalog": lambda: plan_fleet(job()),
}
NOTES = {
    "assumptions",
    "inputs.source",
    "optimality.work",
    "provenance.libraries.numpy",
    "provenance.libraries.ortools",
    "provenance.solver",
    "provenance.tool_version",
    "rental.single_type.why",
}
CLAIMS = {
    "rental.change.usd_per_hour_anew",
    "rental.insurance.overload_without",
    "rental.limits.usd_per_hour_each",
    "rental.insurance.usd_per_hour_without",
    "rental.schedule.usd_per_hour_static",
    "rental.shadow_prices.what",
    "rental.shadow_prices.worth",
}
"""Words and sources of what was assumed, and figures of other fleets, which only a solver could count again."""


@pytest.mark.parametrize("kind", MADE)
def test_no_edit_of_what_is_rented_routed_or_paid_passes(kind):
    assert survivors(MADE[kind]()) <= NOTES | CLAIMS


def test_no_edit_of_a_plan_from_a_configuration_passes(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    made = plan_problem(*melange_inputs(str(path)))
    assert validate_plan(made) == []
    assert survivors(made) <= NOTES | CLAIMS


def test_a_plan_without_its_job_is_refused():
    made = msgspec.structs.replace(MADE["caps"](), inputs=())
    assert any("keeps neither a fleet job" in line for line in validate_plan(made))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"offers": [OFFERS[0] | {"most": 1}, OFFERS[1]]}, "availability of small"),
        ({"offers": [OFFERS[0], OFFERS[1] | {"usd_per_hour": 3.5}]}, "usd_per_hour is 6.0 but 7.0 by the offers"),
        ({"quotas": [{"name": "few", "gpus": ["large"], "most": 1}]}, "quota few is 1 GPUs"),
        ({"power": [{"watts": 700}]}, "power of all regions is 700 W"),
        ({"budget_usd_per_hour": 4.0}, "budget is 4 $/h"),
        ({"failures": {"replicas": 1}}, "does not say where requests go when"),
        ({"slices": 2}, "slices is None but 2"),
        ({"error": {"spread": 0.1}}, "insurance: the job asks for one"),
        ({"hours": [["0", 1.0], ["1", 0.5]]}, "schedule: the job asks for one"),
        ({"models": [msgspec.to_builtins(two_gpus().models[0]) | {"least_replicas": 9}]}, "least replicas of chat"),
        ({"models": [msgspec.to_builtins(two_gpus().models[0]) | {"rate_per_s": 11.0}]}, "rate_per_s is 7.5 but 8.25"),
        (
            {"tables": [msgspec.to_builtins(each) | {"requests_per_s": [1, 1]} for each in two_gpus().tables]},
            "those of no table",
        ),
        ({"models": []}, "models must name at least one model"),
        ({"models": 3}, "the fleet job kept in the plan is refused"),
    ],
)
def test_a_plan_of_another_job_is_refused_with_what_differs(changes, word):
    """The job in the plan is exchanged for one that asks for more, with the right hash."""
    from shardwright.planner.files import sha256_of

    made = plan(two_gpus(**CAPS))
    (record,) = made.inputs
    document = record.document | changes
    forged = msgspec.structs.replace(record, document=document, sha256=sha256_of(document))
    problems = validate_plan(msgspec.structs.replace(made, inputs=(forged,)))
    assert any(word in line for line in problems), problems


def test_offers_and_hours_that_changed_since_make_a_plan_stale(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB.partition("offers:")[2].join(["offers:", ""]))
    Path("hours.csv").write_text("hour,mean_rps\n0,2\n1,10\n")
    command = ["fleet", "chat", "--offers", "job.yaml", "--lengths", "lengths.json", "--hours", "hours.csv"]
    Path("lengths.json").write_text('[{"isl": 100, "osl": 50, "weight": 3}, {"isl": 2000, "osl": 200}]')
    assert run([*command, "-o", "plan.json"]) == 0
    assert run(["validate", "plan.json"]) == 0
    for name, old, new in (
        ("job.yaml", "usd_per_hour: 1.0", "usd_per_hour: 1.2"),
        ("hours.csv", "0,2", "0,3"),
        ("hours.csv", "mean_rps", "calls"),
        ("lengths.json", "100", "101"),
    ):
        text = Path(name).read_text()
        Path(name).write_text(text.replace(old, new))
        capsys.readouterr()
        assert run(["validate", "plan.json"]) == 5
        error = capsys.readouterr().err.strip()
        assert f"{name} has changed since the plan was made" in error
        assert len(error.splitlines()) == 1
        Path(name).write_text(text)


def test_a_trace_that_changed_makes_a_plan_stale(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"2024-01-01 00:00:{second:02d}.0000000,{100 + second},{20 + second}" for second in range(40)]
    Path("trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    command = ["fleet", "llama-3.1-8b", "--gpus", "a10g", "--trace", "trace.csv", "--tpot", "80ms"]
    assert run([*command, "-o", "plan.json"]) == 0
    assert run(["validate", "plan.json"]) == 0
    Path("trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows[:-1]]))
    assert run(["validate", "plan.json"]) == 5
    assert "load trace.csv has changed" in capsys.readouterr().err


def test_the_plan_of_a_job_is_the_same_bytes_with_its_job_in_it():
    assert dump_plan(MADE["caps"]()) == dump_plan(MADE["caps"]())

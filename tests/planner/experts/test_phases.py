"""A placement for every phase: each the best for its own routing, in one plan that validates, exports and re-plans."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shardwright.models import routing_from_counts
from shardwright.planner import (
    ExpertRequest,
    InputError,
    InvalidPlan,
    dump_plan,
    export_plan,
    plan_expert_phases,
    plan_experts,
    validate_plan,
)
from shardwright.planner.cli.main import run
from shardwright.planner.costs.experts import expert_load
from shardwright.planner.experts.phases import phases_of
from shardwright.planner.experts.workloads import workloads_of
from shardwright.planner.export.experts_sglang import read
from shardwright.planner.plan.io import parse

LOAD = ExpertRequest(objective="load", redundant=4)


def counts(seed: int, experts: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).geometric(0.05, size=(3, experts))


@pytest.fixture
def workloads() -> dict:
    return {
        phase: workloads_of([routing_from_counts(phase, counts(at))]) for at, phase in enumerate(("prefill", "decode"))
    }


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    out = {}
    for at, phase in enumerate(("prefill", "decode")):
        out[phase] = tmp_path / f"{phase}.json"
        out[phase].write_text(json.dumps({"logical_count": counts(at).tolist()}))
    return out


def test_every_phase_has_the_plan_it_would_have_alone_and_beats_the_others(workloads):
    plan = plan_expert_phases(workloads, 4, LOAD)
    for phase, routing in workloads.items():
        assert plan.phases[phase].placement == plan_experts(routing, 4, LOAD).placement
    assert plan.optimality.value == pytest.approx(np.mean([p.optimality.value for p in plan.phases.values()]))
    assert validate_plan(plan) == []
    assert dump_plan(parse(dump_plan(plan), "plan")) == dump_plan(plan)
    prefill = next(other for other in plan.alternatives if other.label == "prefill's placement for decode too")
    assert prefill.value > plan.phases["decode"].optimality.value


def test_exports_read_back_as_each_phase(workloads):
    plan = plan_expert_phases(workloads, 4, LOAD)
    made = export_plan(plan, "sglang-experts")
    assert set(made.files) == {"prefill-init_expert_location.json", "decode-init_expert_location.json"}
    for phase, part in plan.phases.items():
        text = made.files[f"{phase}-init_expert_location.json"]
        assert [[list(g) for g in row] for row in part.placement] == read(text, 4, 12)
        assert export_plan(plan, "sglang-experts", phase).files["init_expert_location.json"] == text
    with pytest.raises(InputError, match="phase must be one of"):
        export_plan(plan, "sglang-experts", "training")
    with pytest.raises(InputError, match="only plans of several"):
        export_plan(plan.phases["decode"], "sglang-experts", "decode")


def test_a_changed_phase_or_mean_does_not_hold(workloads):
    plan = plan_expert_phases(workloads, 4, LOAD)
    better = msgspec.structs.replace(plan.optimality, value=plan.optimality.value * 0.9)
    assert any("optimality.value" in text for text in validate_plan(msgspec.structs.replace(plan, optimality=better)))
    part = msgspec.structs.replace(plan.phases["decode"], scores=())
    changed = msgspec.structs.replace(plan, phases={**plan.phases, "decode": part})
    assert any(text.startswith("phases.decode: scores") for text in validate_plan(changed))
    with pytest.raises(InvalidPlan, match="at least two phases"):
        msgspec.structs.replace(plan, phases={"decode": part})


def test_cost_models_take_the_worst_phase(workloads):
    plan = plan_expert_phases(workloads, 4, LOAD)
    assert expert_load(plan, "plan").imbalance == max(part.scores[0].load_ratio for part in plan.phases.values())


def test_the_command_plans_validates_exports_and_replans_phases(files, tmp_path, capsys):
    named = [text for phase, path in files.items() for text in ("--routing", f"{phase}={path}")]
    options = ["--objective", "load", "--gpus", "4", "--redundant", "4"]
    out = tmp_path / "plan.json"
    assert run(["experts", *named, *options, "-o", str(out)]) == 0
    assert run(["validate", str(out)]) == 0
    assert run(["export", str(out), "--to", "sglang-experts", "-o", str(tmp_path / "made")]) == 0
    assert len(list((tmp_path / "made").iterdir())) == 2
    again = [*named, "--objective", "load", "--gpus", "4", "--current", str(out), "--expert-size", "1MB", "--json"]
    capsys.readouterr()
    assert run(["experts", *again]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {record["role"] for record in plan["inputs"]} == {"routing", "plan"}
    assert all(part["migration"]["moved"] == 0 for part in plan["phases"].values())
    assert run(["experts", "--routing", str(files["prefill"]), *again[4:]]) == 2
    assert "routing names none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("routing", "words"),
    [
        (["prefill=a.json", "b.json"], "names no phase"),
        (["prefill=a.json", "prefill=b.json"], "name a second phase"),
    ],
)
def test_phases_that_are_no_phases_are_refused(routing, words):
    with pytest.raises(InputError, match=words):
        phases_of(routing)


def test_files_of_no_phase_are_one_workload_set(tmp_path):
    odd = tmp_path / "x=y.json"
    odd.write_text("{}")
    assert phases_of(["a.json", str(odd)]) is None


def test_phases_of_two_models_are_refused(workloads):
    other = workloads_of([routing_from_counts("decode", counts(5, 16))])
    with pytest.raises(InputError, match="both must be of one model"):
        plan_expert_phases({"prefill": workloads["prefill"], "decode": other}, 4, LOAD)

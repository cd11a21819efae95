"""Serving plans that were edited by hand: whatever contradicts the rest is refused."""

import contextlib

import msgspec
import pytest

from shardwright.planner import Load, ServingJob, Targets, plan_serving
from shardwright.planner.costs.serving.coefficients import _file
from shardwright.planner.errors import InvalidPlan
from shardwright.planner.plan.io import dump, parse
from shardwright.planner.validate import validate_plan
from shardwright.planner.workload.serving import ENGINES, OBJECTIVES

LOAD = Load(isl=1000, osl=200, rate_per_s=30.0)
LOOP = Load(isl=1000, osl=200, concurrency=32, rounds=4, spread=0.3)
TARGETS = Targets(ttft_s=1.0, tpot_s=0.03, percentile=90)


MODES = [*(("auto", goal) for goal in OBJECTIVES), ("shared", None), ("afd", None)]


@pytest.fixture(scope="module")
def plan():
    """Two nodes, prefill and decode apart, for the fewest devices."""
    job = ServingJob(load=LOAD, targets=TARGETS, mode="disaggregated")
    return msgspec.to_builtins(plan_serving("llama-3.1-8b", "hgx-h100:2", job))


def edited(plan, path, change):
    """The plan with the value at a dotted path changed."""
    whole = msgspec.json.decode(msgspec.json.encode(plan))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner = whole
    for part in way:
        inner = inner[part]
    inner[last] = change(inner[last])
    return parse(msgspec.json.encode(whole).decode(), "plan")


def times(factor):
    return lambda value: value * factor


def to(value):
    return lambda _: value


EDITS = [
    ("model", to("llama-3.1-70b")), ("cluster", to("hgx-h100:3")), ("engine", to("vlm")), ("mode", to("aggregated")),
    ("quantization.name", to("fp8")), ("quantization.cache", to("fp8")), ("trace", to("azure.csv")), ("idle", to("")),
    ("load.rate_per_s", times(2)), ("load.rate_per_s", times(0.5)), ("load.lengths.0.osl", times(2)),
    ("targets.ttft_s", times(0.01)), ("targets.percentile", to(99.0)), ("targets_met", to(False)),
    ("optimality.objective", to("luck")), ("optimality.value", times(2)), ("optimality.feasible", to(10**6)),
    ("optimality.work", to(0)), ("provenance.seed", to(-1)), ("pools.0.layout.ep", to(2)),
    ("pools.0.workers", times(2)),
    ("pools.0.capacity_bytes", times(2)), ("pools.0.cache_tokens", times(2)), ("pools.0.memory.weights", times(2)),
    ("pools.0.memory.kv cache", times(2)), ("pools.0.engine.memory_fraction", times(0.5)),
    ("pools.0.engine.token_budget", to(0)), ("pools.0.requests_per_s", times(0.1)),
    ("pools.0.requests_per_s", times(-1)),
    ("prediction.ttft.mean_s", times(2)), ("prediction.tpot.mean_s", times(0.9)),
    ("prediction.e2e.mean_s", times(1.1)),
    ("prediction.ttft.p50_s", times(100)), ("prediction.tpot.at_percentile_s", times(2)),
    ("prediction.tpot.target_s", times(2)), ("prediction.requests", to(0)), ("prediction.requests_per_s", times(2)),
    ("prediction.output_tokens_per_s", times(1.1)), ("prediction.goodput_per_s", times(0.5)),
    ("prediction.busy_share", to(1.5)), ("prediction.preemptions", to(-1)), ("prediction.usd_per_hour", times(0.5)),
    ("prediction.joules_per_output_token", times(100)), ("transfer.bytes_per_token", times(0.5)),
    ("transfer.seconds_per_request", times(0.5)), ("transfer.exposed_s_per_request", times(1e4)),
    ("transfer", to(None)),
    ("node_loss.node", to("nowhere")), ("node_loss.workers_lost", times(3)), ("node_loss.devices_lost", to(0)),
    ("breakdown.0.value", times(-1)), ("alternatives", to([{"label": "", "value": 1.0, "why": ""}])),
]  # fmt: skip


@pytest.mark.parametrize(("path", "change"), EDITS, ids=[f"{place}-{path}" for place, (path, _) in enumerate(EDITS)])
def test_an_edited_plan_does_not_hold(plan, path, change):
    with contextlib.suppress(InvalidPlan):  # refused as it is read, before anything is checked
        assert validate_plan(edited(plan, path, change))


@pytest.mark.parametrize(
    ("mode", "objective"), [("auto", each) for each in OBJECTIVES] + [("shared", None), ("afd", None)]
)
@pytest.mark.parametrize(
    "load", [LOAD, Load(isl=1000, osl=200, concurrency=32, rounds=4, spread=0.3)], ids=["rate", "loop"]
)
def test_every_plan_that_is_made_holds(mode, objective, load):
    found = plan_serving("llama-3.1-8b", "hgx-h100", ServingJob(load=load, objective=objective, mode=mode))
    assert validate_plan(parse(dump(found), "plan")) == []


@pytest.mark.parametrize("name", ["deepseek-v3.2", "deepseek-v4-flash", "gemma-3-27b", "gpt-oss-120b"])
def test_plans_of_sparse_and_windowed_attention_hold_the_cache_they_claim(name):
    """Sparse attention reads few tokens and keeps all of them; a window keeps no more than it reads."""
    load = Load(isl=30_000, osl=500, concurrency=8, rounds=2)
    found = plan_serving(name, "hgx-h200", ServingJob(load=load, quantization="fp8"))
    assert validate_plan(parse(dump(found), "plan")) == []


def test_engines_are_those_that_figures_are_fitted_for():
    assert {each.engine for each in _file().engines} == set(ENGINES)

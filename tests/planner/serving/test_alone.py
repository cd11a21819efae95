"""A lone worker that takes requests in order is the worker that could preempt them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.planner.costs.serving.formulas import ContextCost
from shardwright.planner.serving.alone import Alone
from shardwright.planner.serving.schedule import StepTable
from shardwright.planner.serving.simulation import Deployment, Outcome, Pool, Simulation
from shardwright.planner.workload.serving import Trace
from shardwright.planner.workload.serving_layout import Layout, Speculation
from tests.planner.serving.test_simulation import ROOMY, TABLE, table, trace

WINDOWED = StepTable(replace(TABLE.cost, contexts=(*TABLE.cost.contexts, ContextCost(128, 1e-8, 1e-9))))
TABLES = {
    "plain": TABLE,
    "pipeline": table(Layout(pp=4)),
    "groups": table(Layout(attn_dp=8)),
    "speculating": table(speculation=Speculation(draft_tokens=3, acceptance=0.7, draft_cost=0.1)),
    "windowed": WINDOWED,
}
REQUESTS = st.lists(
    st.tuples(st.floats(0, 0.2), st.integers(1, 1500), st.integers(1, 40), st.floats(0, 0.99)), min_size=1, max_size=16
)


def of_one(phase: str, pool: Pool) -> Deployment:
    return Deployment(**{phase: (pool,)})


def walked(where: Deployment, load: Trace) -> Outcome:
    run = Simulation(where, load, None)
    run._forget()
    assert run._walk_alone(run.workers[0], None)
    return run.outcome()


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    requests=REQUESTS,
    of=st.sampled_from(sorted(TABLES)),
    phase=st.sampled_from(["aggregated", "decode"]),
    policy=st.sampled_from(["mixed", "prefill-first"]),
    ways=st.tuples(st.booleans(), st.booleans()),
    limits=st.tuples(st.sampled_from([1, 2, 5, 64]), st.sampled_from([1600, 2000, 6000, 1e9]), st.integers(8, 3000)),
)
def test_requests_in_order_are_served_as_by_a_worker_that_may_preempt(requests, of, phase, policy, ways, limits):
    arrival, prompt, output, cached = (list(column) for column in zip(*sorted(requests), strict=True))
    hits = np.array([int(share * tokens) for share, tokens in zip(cached, prompt, strict=True)])
    load = replace(trace(arrival, prompt, output), cached_tokens=hits)
    whole, reserve = ways
    sequences, cache, budget = limits
    schedule = replace(
        ROOMY,
        policy=policy,
        whole_prompts=whole,
        reserve_output=reserve,
        max_sequences=sequences,
        cache_tokens=cache,
        token_budget=budget,
    )
    where = of_one(phase, Pool(TABLES[of], schedule, 1))
    run = Simulation(where, load, None)
    assert run.advance()
    found, expected = run.outcome(), walked(where, load)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.busy_share, found.preemptions) == (expected.busy_share, expected.preemptions)


def test_a_cache_that_runs_full_is_left_to_the_worker_that_preempts():
    load = trace([0.0] * 6, [400] * 6, [400] * 6)
    where = of_one("aggregated", Pool(TABLE, replace(ROOMY, cache_tokens=3000.0), 1))
    run = Simulation(where, load, None)
    assert Alone(run.workers[0], run.arrival).advance(None) is None
    run = Simulation(where, load, None)
    assert run.advance()
    assert run.outcome().preemptions > 0

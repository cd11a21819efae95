"""A lone worker that takes requests in order is the worker that could preempt them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.planner.costs.serving.formulas import ContextCost
from shardwright.planner.serving.alone import Alone
from shardwright.planner.serving.misses import Misses
from shardwright.planner.serving.schedule import StepTable
from shardwright.planner.serving.simulation import Coming, Deployment, Outcome, Simulation
from shardwright.planner.serving.turns import Pool
from shardwright.planner.serving.worker import Worker
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


class Stepping(Simulation):
    """A run in which workers that may preempt do everything."""

    def _advance_alone(self, worker: Worker, coming: Sequence[Coming], misses: Misses | None) -> bool | None:
        return None


def walked(where: Deployment, load: Trace) -> Outcome:
    run = Stepping(where, load, None)
    assert run.advance()
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


@settings(max_examples=60, derandomize=True, deadline=None)
@given(requests=REQUESTS, workers=st.integers(1, 3), begun=st.integers(0, 3), cache=st.sampled_from([2000, 1e9]))
def test_a_split_whose_pools_run_on_their_own_is_the_split_that_steps(requests, workers, begun, cache):
    arrival, prompt, output, _ = (list(column) for column in zip(*sorted(requests), strict=True))
    begun = min(begun, len(arrival) - 1)
    load = trace([0.0] * begun + arrival[begun:], prompt, output)
    schedule = replace(ROOMY, cache_tokens=cache)
    where = Deployment(
        aggregated=(Pool(TABLE, schedule, 1, 0.3),),
        prefill=(Pool(TABLES["groups"], schedule, workers, 0.7),),
        decode=(Pool(TABLE, schedule, 1, 0.6), Pool(WINDOWED, schedule, 1, 0.4)),
        transfer_start_s=0.003,
        transfer_token_s=1e-6,
    )
    runs = Simulation(where, load, None, begun), Stepping(where, load, None, begun)
    assert all(run.advance() for run in runs)
    found, expected = (run.outcome() for run in runs)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_cache_that_runs_full_is_left_to_the_worker_that_preempts():
    load = trace([0.0] * 6, [400] * 6, [400] * 6)
    where = of_one("aggregated", Pool(TABLE, replace(ROOMY, cache_tokens=3000.0), 1))
    run = Simulation(where, load, None)
    assert Alone(run.workers[0], run.requests, run.requests.arrival).advance(None) is None
    run = Simulation(where, load, None)
    assert run.advance()
    assert run.outcome().preemptions > 0

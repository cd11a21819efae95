"""A lone prefill worker, walked over sums of prompts, is the simulated one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.planner.serving.lone import prefill_ttft
from shardwright.planner.serving.simulation import simulate
from shardwright.planner.workload.serving import Load
from shardwright.planner.workload.serving_layout import Layout
from tests.planner.serving.test_simulation import ROOMY, TABLE, alone, table, trace

PIPELINE, GROUPS = table(Layout(pp=4)), table(Layout(attn_dp=8))
PROMPTS = st.lists(st.tuples(st.floats(0, 0.1), st.integers(1, 1500), st.floats(0, 0.99)), min_size=1, max_size=20)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    prompts=PROMPTS,
    of=st.sampled_from([TABLE, PIPELINE, GROUPS]),
    whole=st.booleans(),
    reserve=st.booleans(),
    limits=st.tuples(st.sampled_from([1, 2, 5, 64]), st.sampled_from([200, 2000, 6000, 1e9]), st.integers(1, 3000)),
)
def test_summed_prompts_are_taken_as_the_simulated_worker_takes_them(prompts, of, whole, reserve, limits):
    arrival, length, cached = (list(column) for column in zip(*sorted(prompts), strict=True))
    load = trace(arrival, length, [1] * len(length))
    load = replace(load, cached_tokens=np.array([int(a * b) for a, b in zip(length, cached, strict=True)]))
    sequences, cache, budget = limits
    schedule = replace(
        ROOMY,
        whole_prompts=whole,
        reserve_output=reserve,
        max_sequences=sequences,
        cache_tokens=cache,
        token_budget=budget,
    )
    found = prefill_ttft(of, schedule, load)
    assert found == pytest.approx(simulate(alone(schedule, of=of), load).ttft_s, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("percentile", [50, 90, 99])
def test_a_limit_is_given_up_only_where_its_percentile_misses_it(percentile):
    load = Load(isl=800, osl=1, rate_per_s=90.0).sample(400)
    whole = prefill_ttft(TABLE, ROOMY, load)
    reached = float(np.percentile(whole, percentile))
    assert prefill_ttft(TABLE, ROOMY, load, reached * 1.001, percentile).tolist() == whole.tolist()
    assert prefill_ttft(TABLE, ROOMY, load, reached * 0.98, percentile) is None

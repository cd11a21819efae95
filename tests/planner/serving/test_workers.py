"""Rates that no schedule of a worker's steps exceeds, at every number of requests in hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.planner.serving.capacity import capacity, most_of, narrowing
from shardwright.planner.serving.choices import Choice
from shardwright.planner.serving.problem import problem_of
from shardwright.planner.serving.simulation import Deployment, simulate
from shardwright.planner.serving.steady import Lengths, batched_prefill_seconds
from shardwright.planner.serving.turns import Pool
from shardwright.planner.serving.workers import most_decode_rate, most_prefill_rate, most_rate
from shardwright.planner.workload.serving import Load, ServingJob, Targets, Trace
from tests.planner.serving.test_planning import ONE_NODE, SMALL

LOAD = Load(isl=1000, osl=100, rate_per_s=1.0)


@pytest.fixture(scope="module")
def worker():
    return problem_of(SMALL, ONE_NODE, ServingJob(load=LOAD), None).types[0]


@pytest.mark.parametrize("phase", ["aggregated", "prefill", "decode"])
@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_a_rate_sharpened_bit_by_bit_ends_at_the_capacity_and_never_falls_below_it(phase, factor):
    job = ServingJob(load=LOAD, targets=Targets(ttft_s=0.5, tpot_s=0.02, percentile=90))
    problem = problem_of(SMALL, ONE_NODE, job, None)
    worker = problem.types[0]
    most = most_of(problem, worker, phase)
    choice = Choice(worker, phase, most * 0.5 * factor, most)
    whole = max(carried for carried, _ in narrowing(choice.probe(problem), choice.rate, most))
    while not choice.certain:
        choice.sharpen(problem)
        assert choice.rate >= whole
    assert choice.rate == whole > 0


def test_a_worker_that_is_hardly_better_than_another_of_its_size_is_not_weighed_against_it():
    job = ServingJob(load=LOAD, targets=Targets(ttft_s=0.5, tpot_s=0.02, percentile=90))
    problem = problem_of(SMALL, ONE_NODE, job, None)
    rate = capacity(problem, problem.types[0], "decode", most_of(problem, problem.types[0], "decode"))
    twin, better, rival, worse = (Choice(problem.types[0], "decode", 2 * rate, 2 * rate) for _ in range(4))
    rival.carried, rival.rate, worse.carried = rate, rate, 0.8 * rate
    twin.sharpen(problem, rival)
    assert twin.rate < rate and not twin.certain
    while not better.certain:
        better.sharpen(problem, worse)
    assert better.rate == pytest.approx(rate, rel=0.1)


@given(held=st.floats(1.0, 200.0))
def test_a_target_met_exactly_between_two_points_of_the_grid_is_within_the_bound(worker, held):
    """Alone, decoding takes `step` seconds a token, so that a TPOT target of that allows `held` requests in hand."""
    lengths = Lengths(1000, 100)
    step = float(worker.cost.decode_seconds(held, lengths.context)) / worker.cost.tokens_per_step
    carried = held / (step * (lengths.osl - 1))
    found = most_decode_rate(worker, lengths, Targets(tpot_s=step, percentile=99.99))
    assert carried <= found * (1 + 1e-9)
    assert found <= 1.02 * carried + 1.02 / (step * (lengths.osl - 1))
    assert most_rate(worker, lengths, Targets(tpot_s=step)) < found


@given(
    share=st.floats(0.05, 0.99),
    within=st.tuples(st.integers(1, 100), st.integers(1, 100), st.floats(0.0, 1.0)),
    beyond=st.integers(1, 200),
)
def test_starving_some_requests_for_others_does_not_beat_the_bound_at_any_percentile(worker, share, within, beyond):
    """A share of the requests decodes in batches of two sizes, by turns, whose mean step is the target; the rest, which
    may miss it, in batches of its own."""
    lengths = Lengths(1000, 100)
    first, second, part = within

    def step(held):
        return float(worker.cost.decode_seconds(float(held), lengths.context)) / worker.cost.tokens_per_step

    target = part * step(first) + (1 - part) * step(second)
    inside = part * step(first) / first + (1 - part) * step(second) / second
    carried = 1 / ((share * inside + (1 - share) * step(beyond) / beyond) * (lengths.osl - 1))
    found = most_decode_rate(worker, lengths, Targets(tpot_s=target, percentile=100 * share))
    assert carried <= found * (1 + 1e-9)


@pytest.mark.parametrize("isl", [300, 1000, 5000, 8000, 12_000])
def test_a_saturated_prefill_worker_is_within_its_bound_and_near_its_closed_form(isl):
    """All prompts at once, on pipelines of several depths: what the formula takes a full budget to cost."""
    lengths = Lengths(isl, 1)
    for worker in problem_of(SMALL, ONE_NODE, ServingJob(load=Load(isl=isl, osl=1, rate_per_s=1.0)), None).types:
        prompts = np.full(200, isl)
        run = Trace(np.zeros(200), prompts, np.ones_like(prompts), np.zeros_like(prompts))
        rate = 200 / simulate(Deployment(aggregated=(Pool(worker.table, worker.schedule, 1),)), run).duration_s
        assert rate <= most_prefill_rate(worker, lengths) * (1 + 1e-9)
        assert batched_prefill_seconds(worker.cost, worker.schedule, lengths) == pytest.approx(1 / rate, rel=0.2)

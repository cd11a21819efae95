"""Runs of one worker that start as busy as they end."""

import numpy as np
import pytest

from shardwright.planner.serving.capacity import phase_targets
from shardwright.planner.serving.deployments import deployment
from shardwright.planner.serving.open_loop import search_rate
from shardwright.planner.serving.probe import LONG, Probe, error_of, warmed
from shardwright.planner.serving.problem import problem_of
from shardwright.planner.serving.simulation import Deployment, simulate
from shardwright.planner.serving.turns import Pool
from shardwright.planner.serving.workers import most_in_hand
from shardwright.planner.workload.serving import LengthBin, Load, ServingJob, Targets
from tests.planner.serving.test_planning import ONE_NODE, SMALL
from tests.planner.serving.test_simulation import ROOMY, TABLE, alone

LOAD = Load(isl=2000, osl=1000, rate_per_s=1.0)
LOOSE = Targets(ttft_s=1.0, tpot_s=0.2, percentile=90)


@pytest.fixture(scope="module")
def problem():
    return problem_of(SMALL, ONE_NODE, ServingJob(load=LOAD, targets=LOOSE), None)


@pytest.fixture(scope="module")
def decoder(problem):
    """The worker with the least room for the longest contexts: full long before it is slow."""
    worker = min(problem.types, key=lambda each: most_in_hand(each, problem.setting.lengths))
    return Probe(problem, worker, "decode", phase_targets(LOOSE, "decode"))


def test_requests_on_their_way_have_mixed_ages_and_keep_their_lengths():
    load = Load(lengths=(LengthBin(isl=100, osl=50), LengthBin(isl=400, osl=450)), rate_per_s=5.0).sample(2000)
    busy = warmed(load, 400)
    begun = busy.part(slice(0, 400))
    assert busy.part(slice(400, None)).prompt_tokens.tolist() == load.prompt_tokens.tolist()
    whole = begun.prompt_tokens + begun.output_tokens
    assert set(whole.tolist()) == {150, 850}
    assert np.mean(whole == 850) == pytest.approx(0.9, abs=0.03)  # met in proportion to how long they stay
    assert begun.output_tokens.min() >= 1
    assert (450 - begun.output_tokens[whole == 850]).mean() == pytest.approx(225, rel=0.05)
    assert (begun.cached_tokens == begun.prompt_tokens - 1).all()


def test_requests_on_their_way_are_not_counted_and_skip_prefill():
    load = Load(isl=3000, osl=40, rate_per_s=2.0).sample(60)
    pools = Deployment(prefill=(Pool(TABLE, ROOMY, 1),), decode=(Pool(TABLE, ROOMY, 1),))
    for where in (alone(), pools):
        idle, busy = simulate(where, load), simulate(where, warmed(load, 20), begun=20)
        assert len(busy.ttft_s) == 60
        assert busy.mean("tpot") >= idle.mean("tpot")
        assert busy.percentile("ttft", 50) == pytest.approx(idle.percentile("ttft", 50), rel=0.05)


def test_a_full_decoder_is_held_to_what_it_keeps_up_with(decoder):
    most = decoder.saturated
    assert np.isfinite(most)
    assert not decoder.carries(1.02 * most)
    assert decoder.carries(0.9 * most)
    slow = simulate(Deployment(decode=(Pool(decoder.worker.table, decoder.worker.schedule, 1),)), _at(1.1 * most, 3000))
    half = len(slow.tpot_s) // 2
    assert slow.tpot_s[half:].mean() > 1.1 * slow.tpot_s[half // 2 : half].mean()  # beyond it, waiting grows


def _at(rate, number):
    return Load(isl=LOAD.isl, osl=LOAD.osl, rate_per_s=rate).sample(number)


def test_the_error_of_a_percentile_is_what_other_requests_move_it_by():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(200, 4000))
    spread = np.percentile(samples, 90, axis=1).std()
    assert np.median([error_of(each, 90) for each in samples]) == pytest.approx(spread, rel=0.15)


def test_the_highest_rate_holds_ten_times_as_long_under_other_requests():
    targets = Targets(ttft_s=0.5, tpot_s=0.03, percentile=90)
    job = ServingJob(load=LOAD, targets=targets, objective="throughput", most_devices=2)
    problem = problem_of(SMALL, ONE_NODE, job, None)
    found = search_rate(problem)
    longer = Load(isl=LOAD.isl, osl=LOAD.osl, rate_per_s=found.value, seed=7).sample(10 * len(found.outcome.ttft_s))
    again = simulate(deployment(found.proposal, problem.setting, problem.topology), longer)
    assert again.meets(targets.scaled(1.02))


def test_a_long_run_is_of_other_requests_than_the_short_one(problem, decoder):
    decoder.carries(0.5 * decoder.saturated)
    decoder.carries(0.5 * decoder.saturated, LONG)
    assert len({seed for _, seed, _ in problem.samples}) == 2

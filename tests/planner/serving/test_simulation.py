import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.models import TransformerShape, transformer
from shardwright.planner.costs.serving.coefficients import engine, kernels
from shardwright.planner.costs.serving.communication import fabric
from shardwright.planner.costs.serving.step import Machine, step_cost
from shardwright.planner.serving.schedule import Schedule, StepTable, schedule_of
from shardwright.planner.serving.simulation import Deployment, simulate, simulate_load, simulate_within
from shardwright.planner.serving.steady import Lengths, open_states
from shardwright.planner.serving.turns import Pool
from shardwright.planner.workload.serving import Load, Targets, Trace
from shardwright.planner.workload.serving_layout import Layout, Speculation, quantization
from shardwright.topologies import cluster

_SPEC = importlib.util.spec_from_file_location("stepwise", Path(__file__).with_name("stepwise.py"))
stepwise = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(stepwise)

TINY = transformer(TransformerShape(layers=8, hidden=1024, heads=8, kv_heads=2, ffn=4096, vocab=32000, gated=True))
ROOMY = Schedule(token_budget=512, max_sequences=64, cache_tokens=1e9)


def table(layout=None, speculation=None):
    links = fabric(cluster("hgx-h100"))
    figures = kernels(links.accelerator.architecture, links.accelerator.name)[0]
    machine = Machine(links, figures, engine("vllm")[0])
    return StepTable(step_cost(TINY, machine, layout or Layout(), quantization("bf16"), speculation))


TABLE = table()


def trace(arrival, prompt, output, cached=0):
    return Trace(
        np.array(arrival, dtype=float),
        np.array(prompt, dtype=np.int64),
        np.array(output, dtype=np.int64),
        np.full(len(prompt), cached, dtype=np.int64),
    )


def alone(schedule=ROOMY, workers=1, of=TABLE):
    return Deployment(aggregated=(Pool(of, schedule, workers),))


REQUESTS = st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 1500), st.integers(1, 40)), min_size=1, max_size=12)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    requests=REQUESTS,
    policy=st.sampled_from(["mixed", "prefill-first"]),
    whole=st.booleans(),
    sequences=st.sampled_from([2, 5, 64]),
)
def test_leaping_equals_walking_every_step(requests, policy, whole, sequences):
    requests = sorted(requests)
    arrival, prompt, output = (list(column) for column in zip(*requests, strict=True))
    schedule = replace(ROOMY, policy=policy, whole_prompts=whole, max_sequences=sequences)
    found = simulate(alone(schedule), trace(arrival, prompt, output))
    first, finish = stepwise.walk(TABLE, schedule, arrival, prompt, output)
    request_s = TABLE.cost.request_s
    assert found.ttft_s - request_s == pytest.approx(np.array(first) - arrival, rel=1e-6, abs=1e-9)
    assert found.e2e_s - request_s == pytest.approx(np.array(finish) - arrival, rel=1e-6, abs=1e-9)


def test_one_request_takes_its_prompt_and_then_its_steps():
    found = simulate(alone(), trace([0.0], [100], [11]))
    cost = TABLE.cost
    prefill = float(cost.seconds(0.0, 0.0, 100.0, 0.0))
    steps = sum(float(cost.decode_seconds(1.0, 101.0 + step)) for step in range(10))
    assert found.ttft_s[0] == pytest.approx(prefill + cost.request_s, rel=1e-3)
    assert found.e2e_s[0] - found.ttft_s[0] == pytest.approx(steps, rel=1e-3)


def test_every_request_ends_and_tokens_are_conserved():
    load = Load(isl=300, osl=50, concurrency=20, spread=0.5)
    found = simulate_load(alone(), load)
    assert np.isfinite(found.e2e_s).all()
    assert len(found.ttft_s) == 200
    assert found.output_tokens_per_s * found.duration_s == pytest.approx(found.output_tokens.sum())


def test_queueing_counts_in_ttft_and_not_in_tpot():
    calm = simulate(alone(), Load(isl=500, osl=20, rate_per_s=1.0).sample(300))
    busy = simulate(alone(), Load(isl=500, osl=20, rate_per_s=60.0).sample(300))
    assert busy.percentile("ttft", 99) > 1.5 * calm.percentile("ttft", 99)
    assert calm.mean("ttft") >= float(TABLE.cost.seconds(0.0, 0.0, 500.0, 0.0))


def test_a_full_cache_preempts_the_youngest_and_still_ends():
    schedule = replace(ROOMY, cache_tokens=2500)
    found = simulate(alone(schedule), trace([0.0] * 8, [200] * 8, [400] * 8))
    assert found.preemptions > 0
    assert np.isfinite(found.e2e_s).all()
    reserved = simulate(alone(replace(schedule, reserve_output=True)), trace([0.0] * 8, [200] * 8, [400] * 8))
    assert reserved.preemptions == 0
    assert np.isfinite(reserved.e2e_s).all()


def test_prefix_hits_shorten_the_first_token():
    cold = simulate(alone(), trace([0.0], [1000], [2]))
    warm = simulate(alone(), trace([0.0], [1000], [2], cached=900))
    assert warm.ttft_s[0] < cold.ttft_s[0]


def test_more_workers_never_slow_the_same_load():
    load = Load(isl=400, osl=60, rate_per_s=80.0).sample(400)
    one, four = simulate(alone(), load), simulate(alone(workers=4), load)
    assert four.mean("e2e") < one.mean("e2e")
    assert four.busy_share < one.busy_share


def test_split_phases_hand_over_after_the_transfer():
    pools = {"prefill": (Pool(TABLE, ROOMY, 1),), "decode": (Pool(TABLE, ROOMY, 1),)}
    quick = simulate(Deployment(**pools), trace([0.0], [400], [30]))
    slow = simulate(Deployment(**pools, transfer_start_s=0.5, transfer_token_s=1e-3), trace([0.0], [400], [30]))
    assert slow.ttft_s[0] - quick.ttft_s[0] == pytest.approx(0.5 + 0.4)
    assert slow.tpot_s[0] == pytest.approx(quick.tpot_s[0])


def test_decoders_of_a_split_never_wait_for_prompts():
    pools = {"prefill": (Pool(TABLE, ROOMY, 2),), "decode": (Pool(TABLE, ROOMY, 1),)}
    load = Load(isl=1500, osl=40, concurrency=16)
    split, together = simulate_load(Deployment(**pools), load), simulate_load(alone(), load)
    assert split.percentile("tpot", 99) < together.percentile("tpot", 99)


def test_speculation_finishes_sooner():
    drafted = table(speculation=Speculation(draft_tokens=3, acceptance=0.8))
    plain = simulate(alone(), trace([0.0], [100], [200]))
    faster = simulate(alone(of=drafted), trace([0.0], [100], [200]))
    assert faster.mean("tpot") < 0.7 * plain.mean("tpot")


def test_a_lone_prompt_crosses_the_whole_pipeline():
    one, four = (
        simulate(alone(), trace([0.0], [2000], [2])),
        simulate(alone(of=table(Layout(pp=4))), trace([0.0], [2000], [2])),
    )
    assert four.ttft_s[0] > 0.9 * one.ttft_s[0]


def test_attention_groups_read_their_prompts_beside_each_other():
    eight = table(Layout(attn_dp=8))
    schedule = replace(ROOMY, token_budget=8 * 20_000)
    lone, full, over = (
        simulate(alone(schedule, of=eight), trace([0.0] * number, [20_000] * number, [1] * number)).duration_s
        for number in (1, 8, 9)
    )
    attention = eight.pairs_seconds(0, 20_000)
    assert full < lone + attention
    assert over > lone + 0.9 * attention


def test_a_closed_loop_keeps_its_requests_in_hand():
    found = simulate_load(alone(), Load(isl=50, osl=100, concurrency=8))
    in_hand = found.requests_per_s * found.mean("e2e")
    assert in_hand == pytest.approx(8, rel=0.15)


def test_targets_hold_at_their_percentile():
    found = simulate_load(alone(), Load(isl=50, osl=20, concurrency=4))
    limit = found.percentile("ttft", 90)
    assert found.meets(Targets(ttft_s=limit * 1.001, percentile=90))
    assert not found.meets(Targets(ttft_s=limit * 0.999, percentile=90))
    assert found.goodput_per_s(Targets(ttft_s=limit * 0.999)) < found.requests_per_s


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    requests=REQUESTS,
    split=st.booleans(),
    percentile=st.sampled_from([1, 50, 90, 99]),
    limits=st.dictionaries(st.sampled_from(["ttft_s", "tpot_s", "e2e_s"]), st.floats(1e-3, 0.3), min_size=1),
)
def test_giving_up_early_never_changes_the_verdict(requests, split, percentile, limits):
    given_ = trace(*(list(column) for column in zip(*sorted(requests), strict=True)))
    where = alone()
    if split:
        where = Deployment(prefill=(Pool(TABLE, ROOMY, 1),), decode=(Pool(TABLE, ROOMY, 1),), transfer_start_s=0.01)
    targets = Targets(percentile=percentile, **limits)
    whole, within = simulate(where, given_), simulate_within(where, given_, targets)
    assert (within is not None) == whole.meets(targets)
    assert within is None or within.e2e_s.tolist() == whole.e2e_s.tolist()


def test_the_work_of_a_simulation_grows_with_requests_and_not_with_tokens(monkeypatch):
    from shardwright.planner.serving import worker

    counted = []
    plan = worker.Worker.plan
    monkeypatch.setattr(worker.Worker, "plan", lambda self, now: counted.append(1) or plan(self, now))
    for osl in (100, 10_000):
        counted.append(0)
        simulate_load(alone(), Load(isl=50, osl=osl, concurrency=8))
    zero = [place for place, each in enumerate(counted) if each == 0]
    short, long = zero[1] - zero[0], len(counted) - zero[1]
    assert long <= short * 1.2


@pytest.mark.parametrize("name", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("sizes", [(500, 200), (2000, 400), (4000, 100)])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_closed_form_agrees_with_the_simulation_up_to_half_of_capacity(name, sizes, share):
    schedule = schedule_of(engine(name)[0], 1e6)
    lengths = Lengths(*sizes)
    states, rates = open_states(TABLE.cost, schedule, lengths)
    rate = share * float(rates[states.concurrency <= 64].max())
    load = Load(isl=sizes[0], osl=sizes[1], rate_per_s=rate).sample(600)
    found = simulate(alone(schedule), load)
    assert np.interp(rate, rates, states.tpot_s) == pytest.approx(found.mean("tpot"), rel=0.15)
    assert np.interp(rate, rates, states.ttft_s) == pytest.approx(found.mean("ttft"), rel=0.15)

"""The tiny byte model's trace: what a planner can make of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.tiny_moe import route
from shardwright.models import routing_from_ids, split_tokens
from shardwright.planner import ExpertRequest, plan_experts, validate_plan
from shardwright.planner.experts.workloads import workloads_of

TEXT = Path(__file__).resolve().parents[2] / "LICENSE"


@pytest.fixture(scope="module")
def ids():
    return route(TEXT.read_bytes()[:3000], layers=4)


def test_two_experts_of_every_byte_in_every_layer_nearly_even(ids):
    assert ids.shape == (3000, 4, 2)
    assert np.all(ids[:, :, 0] != ids[:, :, 1])
    loads = np.stack([np.bincount(ids[:, layer].ravel(), minlength=16) for layer in range(4)])
    assert loads.min() > 0
    assert loads.max() < 1.8 * loads.mean()


def test_layers_tell_much_of_each_other(ids):
    flow = routing_from_ids("tiny", ids, top=1, experts=16).transitions[0]
    expected = np.outer(flow.sum(axis=1), flow.sum(axis=0))
    seen = flow > 0
    assert (flow[seen] * np.log(flow[seen] / expected[seen])).sum() > 0.5


def test_the_same_seed_routes_alike_and_another_does_not(ids):
    text = TEXT.read_bytes()[:300]
    assert np.array_equal(route(text), route(text))
    assert not np.array_equal(route(text), route(text, seed=1))


def test_a_plan_from_part_of_the_tokens_is_good_for_the_rest(ids):
    whole = routing_from_ids("tiny", ids, experts=16)
    plan = plan_experts(workloads_of([whole], 0.3), 4, ExpertRequest(load_weight=1.0, held_out=0.3, work=300_000))
    assert validate_plan(plan) == []
    usual = plan_experts(workloads_of([split_tokens(whole, 0.3)[1]]), 4, ExpertRequest(load_weight=1.0, work=1000))
    seen, unseen = plan.scores
    assert unseen.held_out and not seen.held_out
    assert unseen.traffic + unseen.load_ratio < usual.alternatives[0].value

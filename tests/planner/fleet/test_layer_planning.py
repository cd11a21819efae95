"""Layers on a given unequal cluster: the case format, both placements, the validator, and what is refused."""

from __future__ import annotations

import json

import msgspec
import pytest

from shardwright.planner.errors import Infeasible, InputError, InvalidPlan, LimitReached
from shardwright.planner.fleet.layer_case import read_helix
from shardwright.planner.fleet.layer_planning import LayerRequest, plan_layers
from shardwright.planner.plan.io import dump, parse
from shardwright.planner.validate import validate_plan
from tests.reference import shared_file


def two_types(**changes):
    """Two fast nodes that hold up to four layers and two slow ones that hold two; every pair is linked."""
    nodes = ["fast", "fast", "slow", "slow"]
    links = {f"{a}_{b}": 100.0 for a in range(4) for b in range(4) if a != b}
    links |= {f"source_{a}": 100.0 for a in range(4)} | {f"{a}_sink": 100.0 for a in range(4)}
    case = {
        "source": "test",
        "layers": 6,
        "node_types": nodes,
        "throughput_tokens_per_s": {
            "fast": {"1": 40.0, "2": 18.0, "3": 11.0, "4": 8.0},
            "slow": {"1": 20.0, "2": 8.0},
        },
        "links_tokens_per_s": links,
    }
    return case | changes


@pytest.fixture
def planned(tmp_path):
    def plan(request=None, **changes):
        path = tmp_path / "case.json"
        path.write_text(json.dumps(two_types(**changes)))
        return plan_layers(read_helix(str(path)), request or LayerRequest())

    return plan


def holding(chains):
    return {(holder.start, holder.end) for holder in chains.holders if holder.end > holder.start}


def test_both_placements_hold_and_the_free_one_passes_more(planned):
    plan = planned(LayerRequest(max_stages=2))
    best, capped = plan.placement.best, plan.placement.capped
    assert validate_plan(plan) == []
    assert plan.optimality.value == best.tokens_per_s > capped.tokens_per_s
    assert capped.stages == 2
    assert capped.tokens_per_s <= capped.bound_tokens_per_s
    assert sum(stream.tokens_per_s for stream in best.streams if stream.target == "sink") == pytest.approx(
        best.tokens_per_s
    )


def test_every_layer_is_held_and_the_same_request_gives_the_same_bytes(planned):
    plan = planned()
    held = {layer for start, end in holding(plan.placement.best) for layer in range(start, end)}
    assert held == set(range(6))
    assert dump(plan) == dump(planned())
    assert parse(dump(plan), "plan") == plan


def test_a_latency_that_only_fast_nodes_keep_leaves_the_slow_ones_out(planned):
    free = planned(LayerRequest(batch=8)).placement.best
    types = {holder.type for holder in free.holders if holder.end > holder.start}
    fast_only = 6 * 8 / 40 + 3 * 1e-3
    assert types == {"fast", "slow"}
    plan = planned(LayerRequest(batch=8, latency_s=fast_only * 1.01))
    assert {holder.type for holder in plan.placement.capped.holders if holder.end > holder.start} == {"fast"}
    assert plan.placement.capped.token_s <= fast_only * 1.01 < free.token_s
    assert validate_plan(plan) == []


def test_a_latency_that_nothing_keeps_names_the_nearest(planned):
    with pytest.raises(Infeasible, match=r"nearest takes 1\.2 s over 2 stages"):
        planned(LayerRequest(batch=8, latency_s=0.5))


def test_too_many_layers_and_too_few_stages_are_infeasible(planned):
    with pytest.raises(Infeasible, match="at most 12 layers together but the chain has 13"):
        planned(layers=13)
    with pytest.raises(Infeasible, match="1 stages are allowed but 2 are needed"):
        planned(LayerRequest(max_stages=1))


def test_nodes_without_links_between_them_carry_nothing(planned):
    with pytest.raises(LimitReached, match="links that are missing"):
        planned(links_tokens_per_s={"source_0": 1.0, "1_sink": 1.0})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 0}, "layers must be from 1"),
        ({"layers": "six"}, r"Expected `int`, got `str` - at `\$.layers`"),
        ({"node_types": []}, "node_types must have from 1"),
        ({"node_types": ["fast", "huge"]}, r"node_types\[1\] is huge but throughput_tokens_per_s has fast, slow"),
        ({"throughput_tokens_per_s": {"fast": {"one": 1.0}, "slow": {}}}, "layers 'one'"),
        ({"throughput_tokens_per_s": {"fast": {"1": -1.0}, "slow": {}}}, "fast.1 must be from 0"),
        ({"throughput_tokens_per_s": {"fast": {"9" * 5000: 1.0}, "slow": {}}}, "at most 9 digits"),
        ({"links_tokens_per_s": {"0_9": 1.0}}, "'0_9' but links are named"),
        ({"links_tokens_per_s": {"0_1": -1.0}}, "0_1 must be at least 0"),
        ({"links_tokens_per_s": {"0_1": 1.0}}, "join the source and the sink"),
    ],
)
def test_a_malformed_case_is_one_line_that_names_the_field(planned, changes, words):
    with pytest.raises(InputError, match=words):
        planned(**changes)


@pytest.mark.parametrize(
    "options",
    [{"max_stages": 0}, {"max_stages": 2, "latency_s": 1.0}, {"latency_s": 0.0}, {"batch": 0}, {"hop_s": -1.0}],
)
def test_a_cap_out_of_range_is_refused(options):
    with pytest.raises(InputError):
        LayerRequest(**options)


def test_a_node_that_can_hold_no_layer_is_left_out(planned):
    tables = {"fast": {"6": 4.0}, "slow": {}}
    assert validate_plan(planned(layers=6, throughput_tokens_per_s=tables)) == []


def changed(plan, **fields):
    best = msgspec.structs.replace(plan.placement.best, **fields)
    return msgspec.structs.replace(plan, placement=msgspec.structs.replace(plan.placement, best=best))


def test_the_validator_finds_what_was_tampered_with(planned):
    plan = planned()
    best = plan.placement.best
    first, *rest = best.streams
    more = msgspec.structs.replace(first, tokens_per_s=first.tokens_per_s * 2)
    wide = msgspec.structs.replace(first, capacity_tokens_per_s=1e6)
    busy = next(at for at, holder in enumerate(best.holders) if holder.end > holder.start)
    holder = msgspec.structs.replace(best.holders[busy], tokens_per_s=best.holders[busy].tokens_per_s * 2)
    holders = (*best.holders[:busy], holder, *best.holders[busy + 1 :])
    for fields, words in (
        ({"streams": (more, *rest)}, "pass the source"),
        ({"streams": (wide, *rest)}, "by the case file"),
        ({"streams": tuple(rest)}, "pass the source"),
        ({"holders": holders}, "by the case file"),
        ({"stages": best.stages + 1}, "a token visits up to"),
        ({"token_s": best.token_s * 2}, "longest way takes"),
        ({"bound_tokens_per_s": best.bound_tokens_per_s * 2}, "above what the nodes can do"),
    ):
        assert any(words in problem for problem in validate_plan(changed(plan, **fields))), words


def test_a_flow_that_leaves_room_unused_is_no_maximum(planned):
    plan = planned()
    half = tuple(msgspec.structs.replace(s, tokens_per_s=s.tokens_per_s / 2) for s in plan.placement.best.streams)
    value = plan.placement.best.tokens_per_s / 2
    problems = validate_plan(changed(plan, streams=half, tokens_per_s=value))
    assert any("nodes and links pass" in problem for problem in problems)


def test_a_plan_is_a_rental_or_a_placement(planned):
    plan = planned()
    with pytest.raises(InvalidPlan, match="a rental or a placement"):
        msgspec.structs.replace(plan, placement=None)


@pytest.mark.parametrize(
    ("name", "known"), [("a100x4_llama30b", 1044.53), ("l4x8_llama30b", 252.649), ("cluster10_llama30b", 286.58)]
)
def test_published_clusters_are_planned_to_the_proven_best(name, known):
    plan = plan_layers(read_helix(str(shared_file(f"profiles/helix/cases/{name}.json"))), LayerRequest())
    assert plan.optimality.value >= known
    assert plan.optimality.status == "optimal"
    assert plan.placement.capped.bound_tokens_per_s <= plan.placement.best.bound_tokens_per_s
    assert validate_plan(plan) == []

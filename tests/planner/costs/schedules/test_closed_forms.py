"""The closed forms are the event walk on equal stages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.planner.costs.schedules import (
    BoundaryTimes,
    EqualTimes,
    StageTimes,
    chunks_in_flight,
    compile_schedule,
    held,
    lower_bound_s,
    makespan_bound_s,
    makespan_s,
    walk,
)
from shardwright.planner.errors import InputError
from shardwright.planner.strategy import Schedule

SCHEDULES: tuple[Schedule, ...] = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-v", "dualpipe")

seconds = st.floats(0.1, 10.0)


@st.composite
def sizes(draw: st.DrawFn, schedule: Schedule) -> tuple[int, int, int]:
    """pp, micro-batches and vpp that the schedule accepts."""
    if schedule == "dualpipe":
        half = draw(st.integers(1, 3))
        return 2 * half, 2 * draw(st.integers(2 * half, 2 * half + 7)), 1
    pp = draw(st.integers(1, 6))
    if schedule == "interleaved":
        return pp, pp * draw(st.integers(1, 5)), draw(st.integers(1, 3))
    return pp, draw(st.integers(1, 18)), 1


@st.composite
def equal_times(draw: st.DrawFn, schedule: Schedule) -> EqualTimes:
    """Stage times and transfers, from much shorter than an operation to much longer."""
    forward, input_grad, weight_grad = draw(seconds), draw(seconds), draw(seconds)
    scale = draw(st.sampled_from([0.0, 0.01, 0.1, 1.0, 3.0]))
    pair = None
    if schedule == "dualpipe":
        short, long = sorted((forward, input_grad + weight_grad))
        pair = long + draw(st.floats(0.0, 1.0)) * short
    return EqualTimes(forward, input_grad, weight_grad, scale * draw(seconds), scale * draw(seconds), pair)


def walk_equal(schedule: Schedule, times: EqualTimes, pp: int, microbatches: int, vpp: int) -> float:
    program = compile_schedule(schedule, pp, microbatches, vpp)
    each, between = np.ones(program.stages), np.ones(program.stages - 1)
    if schedule == "zb-v":
        between[pp - 1] = 0.0
    stages = StageTimes(
        times.forward_s * each,
        times.input_grad_s * each,
        times.weight_grad_s * each,
        None if times.pair_s is None else times.pair_s * each,
    )
    boundaries = BoundaryTimes(times.send_activation_s * between, times.send_gradient_s * between)
    return float(walk(program, stages, boundaries).makespan_s)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_closed_form_equals_the_walk_on_equal_stages(schedule: Schedule, data: st.DataObject) -> None:
    pp, microbatches, vpp = data.draw(sizes(schedule))
    times = data.draw(equal_times(schedule))
    exact = walk_equal(schedule, times, pp, microbatches, vpp)
    assert float(makespan_s(schedule, times, pp, microbatches, vpp)) == pytest.approx(exact, rel=1e-9)
    assert float(makespan_bound_s(schedule, times, pp, microbatches, vpp)) <= exact * (1 + 1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_closed_form_without_a_walk_is_exact_when_transfers_hide_behind_operations(
    schedule: Schedule, data: st.DataObject
) -> None:
    pp, microbatches, vpp = data.draw(sizes(schedule))
    microbatches *= 2 if schedule == "zb-v" else 1
    times = data.draw(equal_times(schedule))
    shortest = min(times.forward_s, times.input_grad_s, times.weight_grad_s)
    transfer = data.draw(st.floats(0.0, 1.0)) * shortest
    times = EqualTimes(
        times.forward_s, times.input_grad_s, times.weight_grad_s, transfer, transfer, pair_s=times.pair_s
    )
    if schedule == "zb-v" and microbatches < 2 * pp - 1:
        return
    bound = float(makespan_bound_s(schedule, times, pp, microbatches, vpp))
    assert bound == pytest.approx(walk_equal(schedule, times, pp, microbatches, vpp), rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_activations_in_flight_equal_the_walks_maximum(schedule: Schedule, data: st.DataObject) -> None:
    pp, microbatches, vpp = data.draw(sizes(schedule))
    program = compile_schedule(schedule, pp, microbatches, vpp)
    for rank in range(pp):
        begun, due = held(program.orders[rank])
        assert begun.sum(1).max() == chunks_in_flight(schedule, rank, pp, microbatches, vpp)
        both = chunks_in_flight(schedule, rank, pp, microbatches, vpp, until_weight_gradient=True)
        assert (begun + due).sum(1).max() == both


def test_one_forward_one_backward_pays_a_round_trip_per_pp_microbatches() -> None:
    free = EqualTimes(1.0, 1.0, 1.0)
    slow = EqualTimes(1.0, 1.0, 1.0, 0.5, 0.5)
    microbatches = np.arange(1, 34)
    extra = makespan_s("1f1b", slow, 4, microbatches) - makespan_s("1f1b", free, 4, microbatches)
    assert extra[[0, 4, 8, 32]].tolist() == [3.0, 6.0, 9.0, 27.0]


def test_dualpipe_has_the_bubble_its_paper_gives() -> None:
    makespan = makespan_s("dualpipe", EqualTimes(1.0, 1.0, 1.0), 8, 20)
    assert makespan - 20 * 3.0 == (8 / 2 - 1) * (3.0 + 2.0 - 3.0)


@pytest.mark.parametrize(("forward", "input_grad", "weight_grad"), [(1.0, 1.0, 1.0), (1.0, 1.5, 0.5)])
def test_zb_h1_has_the_bubble_its_paper_gives(forward: float, input_grad: float, weight_grad: float) -> None:
    makespan = makespan_s("zb-h1", EqualTimes(forward, input_grad, weight_grad), 4, 8)
    assert makespan - 8 * 3.0 == 3 * (forward + input_grad - weight_grad)


def test_interleaving_divides_the_bubble_by_vpp() -> None:
    plain = makespan_s("1f1b", EqualTimes(6.0, 6.0, 6.0), 4, 8) - 8 * 18.0
    dealt = makespan_s("interleaved", EqualTimes(2.0, 2.0, 2.0), 4, 8, 3) - 8 * 18.0
    assert dealt == plain / 3


def test_closed_forms_take_arrays_of_every_argument() -> None:
    pp, microbatches = np.array([[2], [4]]), np.array([8, 16, 32])
    times = EqualTimes(np.array([1.0, 2.0, 3.0]), 1.0, 1.0, 0.1, 0.1)
    got = makespan_s("1f1b", times, pp, microbatches)
    assert got.shape == (2, 3)
    assert got[1, 2] == pytest.approx(float(makespan_s("1f1b", EqualTimes(3.0, 1.0, 1.0, 0.1, 0.1), 4, 32)))


@pytest.mark.parametrize(
    ("schedule", "pp", "microbatches", "vpp"),
    [("interleaved", 4, 6, 2), ("dualpipe", 3, 8, 1), ("dualpipe", 4, 6, 1), ("1f1b", 4, 8, 2), ("gpipe", 0, 1, 1)],
)
def test_sizes_that_a_schedule_cannot_run_are_refused(schedule: Schedule, pp: int, microbatches: int, vpp: int) -> None:
    with pytest.raises(InputError, match=f"schedule {schedule}"):
        makespan_s(schedule, EqualTimes(1.0, 1.0, 1.0), pp, microbatches, vpp)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_schedule_beats_the_bound_of_its_slowest_stage(schedule: Schedule, data: st.DataObject) -> None:
    pp, microbatches, vpp = data.draw(sizes(schedule))
    program = compile_schedule(schedule, pp, microbatches, vpp)
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    forward, input_grad, weight_grad = generator.uniform(0.1, 2.0, (3, program.stages))
    pair = None
    if schedule == "dualpipe":
        backward = (input_grad + weight_grad)[::-1]
        longer = np.maximum(forward, backward)
        pair = longer + generator.uniform(0.0, 1.0, program.stages) * np.minimum(forward, backward)
    stages = StageTimes(forward, input_grad, weight_grad, pair)
    boundaries = BoundaryTimes(*generator.uniform(0.0, 1.0, (2, program.stages - 1)))
    timeline = walk(program, stages, boundaries)
    bound = float(lower_bound_s(schedule, pp, microbatches, stages, boundaries, vpp))
    assert bound <= float(timeline.makespan_s) * (1 + 1e-9)
    if schedule != "dualpipe":  # its bound lets every forward overlap a backward
        assert timeline.busy_s.max() <= bound * (1 + 1e-9)

"""The event walk runs every order from first principles."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright.planner.costs.schedules import (
    BoundaryTimes,
    StageTimes,
    compile_schedule,
    held,
    peak_activation_bytes,
    rank_orders,
    stage_of,
    walk,
)
from shardwright.planner.errors import InputError
from shardwright.planner.strategy import Schedule

CASES: list[tuple[Schedule, int, int, int]] = [
    ("gpipe", 3, 5, 1),
    ("1f1b", 4, 3, 1),
    ("1f1b", 4, 9, 1),
    ("interleaved", 3, 6, 2),
    ("zb-h1", 4, 7, 1),
    ("zb-v", 3, 2, 1),
    ("zb-v", 3, 8, 1),
    ("dualpipe", 4, 10, 1),
    ("dualpipe", 2, 4, 1),
]


def random_times(stages: int, seed: int = 0) -> tuple[StageTimes, BoundaryTimes]:
    generator = np.random.default_rng(seed)
    return (
        StageTimes(*generator.uniform(0.5, 2.0, (3, stages))),
        BoundaryTimes(*generator.uniform(0.0, 1.0, (2, stages - 1))),
    )


@pytest.mark.parametrize(("schedule", "pp", "microbatches", "vpp"), CASES)
def test_every_rank_runs_each_operation_of_its_chunks_once(
    schedule: Schedule, pp: int, microbatches: int, vpp: int
) -> None:
    for rank, order in enumerate(rank_orders(schedule, pp, microbatches, vpp)):
        done = [(op.kind[0], stage_of(schedule, pp, rank, op.chunk), op.microbatch) for slot in order for op in slot]
        done += [
            ("W", stage_of(schedule, pp, rank, op.chunk), op.microbatch) for s in order for op in s if op.kind == "BW"
        ]
        each = microbatches // 2 if schedule == "dualpipe" else microbatches
        chunks = {"interleaved": vpp, "zb-v": 2, "dualpipe": 2}.get(schedule, 1)
        stages = [stage_of(schedule, pp, rank, chunk) for chunk in range(chunks)]
        assert sorted(done) == sorted((kind, stage, i) for kind in "FBW" for stage in stages for i in range(each))


@pytest.mark.parametrize(("schedule", "pp", "microbatches", "vpp"), CASES)
def test_operations_begin_as_soon_as_they_may_and_never_before(
    schedule: Schedule, pp: int, microbatches: int, vpp: int
) -> None:
    program = compile_schedule(schedule, pp, microbatches, vpp)
    stages, boundaries = random_times(program.stages)
    timeline = walk(program, stages, boundaries)
    chains = [range(pp), range(pp, 2 * pp)] if schedule == "dualpipe" else [range(program.stages)]
    finished: dict[tuple[str, int, int], float] = {}
    slots = [
        (rank, slot, timeline.begin_s[index], timeline.end_s[index])
        for rank in range(pp)
        for slot, index in zip(program.orders[rank], timeline.rank_slots(rank), strict=True)
    ]
    for rank, slot, _, end in slots:
        for kind, microbatch, chunk in slot:
            finished[kind[0], stage_of(schedule, pp, rank, chunk), microbatch] = end
    free = dict.fromkeys(range(pp), 0.0)
    for rank, slot, begin, end in slots:
        ready = free[rank]
        for kind, microbatch, chunk in slot:
            stage = stage_of(schedule, pp, rank, chunk)
            chain = next(c for c in chains if stage in c)
            if kind == "F" and stage > chain[0]:
                ready = max(ready, finished["F", stage - 1, microbatch] + boundaries.forward_s[stage - 1])
            elif kind in ("B", "BW") and stage < chain[-1]:
                ready = max(ready, finished["B", stage + 1, microbatch] + boundaries.backward_s[stage])
            elif kind == "W":
                assert finished["B", stage, microbatch] <= begin + 1e-9
        assert begin == pytest.approx(ready)
        free[rank] = end


def test_candidates_are_walked_together_as_if_alone() -> None:
    program = compile_schedule("1f1b", 4, 8)
    times = [random_times(4, seed) for seed in range(6)]
    together = walk(
        program,
        StageTimes(
            *(np.array([getattr(s, f) for s, _ in times]) for f in ("forward_s", "input_grad_s", "weight_grad_s"))
        ),
        BoundaryTimes(*(np.array([getattr(b, f) for _, b in times]) for f in ("forward_s", "backward_s"))),
    )
    alone = [float(walk(program, *each).makespan_s) for each in times]
    assert together.makespan_s.tolist() == alone
    assert together.bubble_s.shape == (6, 4)


def test_a_slow_stage_fills_its_neighbours_with_bubble() -> None:
    program = compile_schedule("1f1b", 3, 12)
    timeline = walk(program, StageTimes(np.array([1.0, 2.0, 1.0]), np.array([1.0, 2.0, 1.0]), np.zeros(3)))
    assert timeline.busy_s.tolist() == [24.0, 48.0, 24.0]
    assert timeline.makespan_s == 48.0 + 2.0
    assert np.argmin(timeline.bubble_s) == 1


def test_activations_in_flight_rise_and_fall_with_time() -> None:
    timeline = walk(compile_schedule("1f1b", 2, 3), StageTimes(np.ones(2), np.ones(2), np.zeros(2)))
    begins, counts = timeline.in_flight(0)
    assert counts.tolist() == [1, 2, 2, 2, 2, 1]
    assert (np.diff(begins) > 0).all()


def test_peak_activation_bytes_weigh_every_chunk_by_its_own_stage() -> None:
    program = compile_schedule("zb-v", 2, 6)
    peaks = peak_activation_bytes(program, np.array([8.0, 4.0, 2.0, 1.0]), np.zeros(4))
    begun, _ = held(program.orders[0])
    assert peaks.tolist() == [max(8.0 * a + 1.0 * b for a, b in begun.tolist()), 3 * 4.0 + 2.0]


def test_weight_gradients_put_off_hold_their_share_of_memory() -> None:
    program = compile_schedule("zb-h1", 4, 8)
    assert peak_activation_bytes(program, np.ones(4)).tolist() == [4.0, 4.0, 4.0, 4.0]
    assert peak_activation_bytes(program, np.ones(4), np.zeros(4)).tolist() == [4.0, 3.0, 2.0, 1.0]


def test_times_for_another_number_of_stages_are_refused() -> None:
    program = compile_schedule("interleaved", 2, 4, 2)
    with pytest.raises(InputError, match="4 virtual stages but got 2"):
        walk(program, StageTimes(np.ones(2), np.ones(2), np.ones(2)))
    with pytest.raises(InputError, match="3 boundaries but got 1"):
        walk(program, StageTimes(np.ones(4), np.ones(4), np.ones(4)), BoundaryTimes(np.ones(1), np.ones(1)))

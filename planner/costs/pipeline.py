"""Time of one optimizer step's pipeline in closed form, from the slowest stage, all stages together, and the hops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..strategy import SCHEDULES, Schedule
from ..workload.strategy_table import Ints, StrategyTable
from .keys import Floats
from .schedules.closed_forms import EqualTimes, makespan_bound_s


@dataclass(frozen=True, slots=True)
class PipelineLoad:
    """Arrays over strategies. Seconds of one micro-batch on the slowest rank (`stage_s`, of which `stage_forward_s` is
    forward and `stage_weight_s` computes weight gradients) and on all ranks together (`total_s`); `hop_s` the slowest
    boundary one way, `hops_s` all of them in a row, `hop_exposed_s` what of a micro-batch's sends and receives blocks
    the slowest rank. `uneven` is the share by which unequal virtual stages prolong its work."""

    stage_s: Floats
    stage_forward_s: Floats
    stage_weight_s: Floats
    total_s: Floats
    hop_s: Floats
    hops_s: Floats
    hop_exposed_s: Floats
    uneven: Floats


@dataclass(frozen=True, slots=True)
class PipelineTime:
    """`work_s`: every micro-batch on the slowest rank. `waiting_s`: its sends and receives. `bubble_s`: fill, drain
    and round trips."""

    work_s: Floats
    waiting_s: Floats
    bubble_s: Floats

    @property
    def seconds(self) -> Floats:
        """The whole pipeline."""
        return self.work_s + self.waiting_s + self.bubble_s


def pipeline_time(table: StrategyTable, microbatches: Ints, load: PipelineLoad) -> PipelineTime:
    """Critical path of each schedule; on equal stages it is the event walk's makespan.

    1F1B: the first micro-batch's round trip, then the slowest rank's period for each other; when a round trip takes
    longer than pp periods it is paid once per pp micro-batches, the in-flight limit (Pipette, Jang et al. 2024,
    section IV, "hidden critical path"). GPipe has no such limit. Interleaved 1F1B divides the fill by vpp (Narayanan
    et al. 2021, section 2.2), and a chunk shorter than its transfer waits for it. The zero-bubble schedules and
    DualPipe are taken as if every rank were the slowest.
    """
    pp = np.maximum(table.pp, 1)
    period = load.stage_s + load.hop_exposed_s
    others = np.maximum(load.total_s - load.stage_s, 0.0)
    fill = others + 2 * load.hops_s
    rounds, rest = np.divmod(microbatches - 1, pp)
    trips = rounds + np.maximum(rest - 1, 0) / np.maximum(pp - 1, 1)
    stall = trips * np.maximum(load.stage_s + fill - pp * period, 0.0)
    bubbles = {"1f1b": fill + stall, "gpipe": fill, "interleaved": _interleaved(table, microbatches, load, others)}
    zero = np.zeros(len(table))
    bubble = np.choose(table.schedule, [bubbles.get(name, zero) for name in SCHEDULES])
    for code, name in enumerate(SCHEDULES):
        rows = np.flatnonzero((table.schedule == code) & (table.pp > 1))
        if name not in bubbles and len(rows):
            bubble[rows] = _as_if_equal(name, table, microbatches, load, rows)
    alone = table.pp == 1
    return PipelineTime(
        work_s=microbatches * load.stage_s,
        waiting_s=np.where(alone, 0.0, (microbatches - 1) * load.hop_exposed_s),
        bubble_s=np.where(alone, 0.0, bubble),
    )


def _interleaved(table: StrategyTable, microbatches: Ints, load: PipelineLoad, others: Floats) -> Floats:
    """Fill and drain over vpp passes through the ranks, the wrap-around where a transfer outlasts a chunk, and waits
    for heavier chunks of a round."""
    vpp, pp = table.vpp, table.pp
    forward = load.stage_forward_s / vpp
    backward = (load.stage_s - load.stage_forward_s) / vpp
    hops = vpp * load.hops_s + (vpp - 1) * load.hop_s
    wraps = pp * (vpp - 1) * np.maximum(microbatches / pp - 1, 0)
    late = np.maximum(np.maximum(load.hop_s - backward, load.hop_s - forward), 0.0)
    result: Floats = others / vpp + 2 * hops + wraps * late + microbatches * load.stage_s * load.uneven
    return result


def _as_if_equal(
    schedule: Schedule, table: StrategyTable, microbatches: Ints, load: PipelineLoad, rows: Ints
) -> Floats:
    """Bubble of a schedule known in closed form for equal stages only."""
    pieces = 2.0 if schedule == "zb-v" else 1.0
    stage_s, forward, weight = load.stage_s[rows], load.stage_forward_s[rows], load.stage_weight_s[rows]
    hop = load.hops_s[rows] / (table.pp[rows] - 1)
    times = EqualTimes(
        forward_s=forward / pieces,
        input_grad_s=(stage_s - forward - weight) / pieces,
        weight_grad_s=weight / pieces,
        send_activation_s=hop,
        send_gradient_s=hop,
    )
    whole = makespan_bound_s(schedule, times, table.pp[rows], microbatches[rows])
    result: Floats = np.maximum(whole - microbatches[rows] * stage_s, 0.0)
    return result

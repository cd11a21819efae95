"""Time of one optimizer step's pipeline in closed form, from the slowest stage, all stages together, and the hops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..strategy import SCHEDULES
from ..workload.strategy_table import Ints, StrategyTable
from .keys import Floats


@dataclass(frozen=True, slots=True)
class PipelineLoad:
    """Arrays over strategies. Seconds of one micro-batch on the slowest rank (`stage_s`, of which `stage_weight_s`
    computes weight gradients) and on all ranks together; `hop_s` the slowest boundary one way, `hops_s` all of them,
    `hop_exposed_s` what of a micro-batch's sends and receives the slowest rank waits for."""

    stage_s: Floats
    stage_weight_s: Floats
    total_s: Floats
    total_weight_s: Floats
    hops_s: Floats
    hop_exposed_s: Floats


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
    """Critical path of each schedule.

    1F1B: the first micro-batch's round trip, then the slowest rank's period for each other; when a round trip takes
    longer than pp periods it is paid once per pp micro-batches, the in-flight limit (Pipette, Jang et al. 2024,
    section IV, "hidden critical path"). GPipe has no such limit. Interleaved 1F1B divides the fill by vpp (Narayanan
    et al. 2021, section 2.2). ZB-H1 moves weight gradients into the bubble: (p - 1)(F + B - W) (Qi et al. 2024,
    Table 2).
    """
    pp, vpp = table.pp, table.vpp
    period = load.stage_s + load.hop_exposed_s
    others = np.maximum(load.total_s - load.stage_s, 0.0)
    fill = others + 2 * load.hops_s
    round_trip = load.stage_s + fill
    stall = np.floor((microbatches - 1) / pp) * np.maximum(round_trip - pp * period, 0.0)
    bubbles = {
        "1f1b": fill + stall,
        "interleaved": others / vpp + 2 * load.hops_s,
        "gpipe": fill,
        "zb-h1": np.maximum(fill - 2 * (load.total_weight_s - load.stage_weight_s), 0.0) + stall,
    }
    order = [bubbles.get(name, bubbles["zb-h1"]) for name in SCHEDULES]
    alone = pp == 1
    return PipelineTime(
        work_s=microbatches * load.stage_s,
        waiting_s=np.where(alone, 0.0, (microbatches - 1) * load.hop_exposed_s),
        bubble_s=np.where(alone, 0.0, np.choose(table.schedule, order)),
    )

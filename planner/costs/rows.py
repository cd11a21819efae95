"""What every row of a strategy table gathers: its block costs and its pipeline's stages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..strategy import RECOMPUTES, SCHEDULES
from ..workload.strategy_table import CUSTOM, Ints, StrategyTable
from .blocks import BlockCosts
from .keys import BlockKeys, Floats
from .stages import Stages

SELECTIVE = RECOMPUTES.index("selective")
DUALPIPE = SCHEDULES.index("dualpipe")


@dataclass(frozen=True, slots=True)
class Rows:
    """A table with, per row, the position of its key in `costs` and of its pipeline in `stages`.

    `again_s` and `saved_bytes` are [rows, blocks]: seconds of selective recompute and bytes kept per micro-batch.
    `redone_s` and `kept_bytes` are those of the blocks that `stages.again` counts: a whole forward and its input, or
    selective recompute where only some layers of a stage take it.
    """

    table: StrategyTable
    microbatches: Ints
    keys: BlockKeys
    key: NDArray[np.int64]
    costs: BlockCosts
    stages: Stages
    pipeline: NDArray[np.int64]
    again_s: Floats
    saved_bytes: Floats
    redone_s: Floats
    kept_bytes: Floats

    def by_stage(self, counts: Floats, values: Floats) -> Floats:
        """Σ over blocks of counts[pipeline, stage, block] · values[row, block], shape [rows, stages]."""
        result: Floats = np.einsum("nsb,nb->ns", counts[self.pipeline], values)
        return result

    def over_all(self, counts: Floats, values: Floats) -> Floats:
        """Σ over blocks of counts[pipeline, block] · values[row, block], shape [rows]."""
        result: Floats = np.einsum("nb,nb->n", counts[self.pipeline], values)
        return result

    def gathered(self, values: Floats) -> Floats:
        """A block cost for every row, shape [rows, blocks]."""
        return values[self.key]

    def dense_parameters(self) -> Floats:
        """Parameters per rank outside the experts, [rows, blocks]; a tied head copies its table when pp puts it on
        another rank than the embedding."""
        apart = ((self.table.pp > 1) & (self.table.vocab_parallel == 0))[:, None]
        result: Floats = self.gathered(self.costs.dense_parameters) + apart * self.gathered(self.costs.tied_parameters)
        return result


def recomputes_by_stage(table: StrategyTable) -> NDArray[np.bool_]:
    """Which rows say of every stage how many of its layers are recomputed."""
    own = np.array([bool(each) for each in table.custom_recomputes] or [False])
    layout = table.layout - CUSTOM
    result: NDArray[np.bool_] = (layout >= 0) & own[np.maximum(layout, 0)]
    return result

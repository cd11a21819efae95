"""Predictions of the training cost model for many measured runs, those of one model, cluster and job together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.measurements.clusters import topology_of
from benchmarks.measurements.runs import Run
from shardwright.models import ModelError
from shardwright.planner.costs.step import StepCosts, TrainingCosts
from shardwright.planner.errors import ShardwrightError
from shardwright.planner.workload.strategy_table import StrategyTable, table_of
from shardwright.topologies import TopologyError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs that share model, cluster and job: `rows[i]` is the place of table row i among all runs."""

    costs: TrainingCosts
    table: StrategyTable
    rows: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Per run: seconds of a step and bytes on the fullest device, NaN where the model refuses; and why it does."""

    step_s: Floats
    memory_bytes: Floats
    refusals: dict[int, str]


def batches(runs: Sequence[Run]) -> tuple[list[Batch], dict[int, str]]:
    """The runs grouped, and for every run that the cost model refuses the reason."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault((run.model, run.cluster, run.job), []).append(i)
    made: list[Batch] = []
    refusals: dict[int, str] = {}
    for members in groups.values():
        first = runs[members[0]]
        try:
            costs = TrainingCosts(first.model, topology_of(first.cluster), first.job)
            table = table_of([runs[i].strategy for i in members], first.model.num_layers)
        except (ShardwrightError, ModelError, TopologyError) as error:
            refusals |= dict.fromkeys(members, str(error))
            continue
        made.append(Batch(costs, table, np.array(members)))
    return made, refusals


def evaluations(runs: Sequence[Run]) -> tuple[list[tuple[Batch, StepCosts]], dict[int, str]]:
    """The runs grouped, with the costs of each group, and why others have none; one run refused leaves the rest."""
    made, refusals = batches(runs)
    found: list[tuple[Batch, StepCosts]] = []
    waiting = made[::-1]
    while waiting:
        batch = waiting.pop()
        try:
            found.append((batch, batch.costs.evaluate(batch.table)))
        except (ShardwrightError, ModelError, TopologyError, MemoryError) as error:
            if len(batch.rows) == 1:
                refusals[int(batch.rows[0])] = str(error)
                continue
            alone = np.arange(len(batch.rows))[:, None]
            waiting += [Batch(batch.costs, batch.table.take(row), batch.rows[row]) for row in alone[::-1]]
    return found, refusals


def predict(runs: Sequence[Run]) -> Predictions:
    """Predictions of all runs with the shipped coefficients."""
    made, refusals = evaluations(runs)
    step_s, memory = np.full(len(runs), np.nan), np.full(len(runs), np.nan)
    for batch, costs in made:
        step_s[batch.rows], memory[batch.rows] = costs.step_s, costs.memory_bytes
    for i in np.flatnonzero(~(np.isfinite(step_s) & (step_s > 0))):
        refusals.setdefault(int(i), "the cost model gives no finite time")
    return Predictions(step_s, memory, refusals)

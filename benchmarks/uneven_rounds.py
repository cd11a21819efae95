"""Interleaved pipelines whose virtual stages are not alike: the event walk against the planner's closed form.

    python -m benchmarks.uneven_rounds

The share of uneven rounds that ranks wait for (UNEVEN_ROUNDS) is fitted on two models and reported on others.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from shardwright import models
from shardwright.planner.costs.schedules import StageTimes, compile_schedule, walk
from shardwright.planner.costs.stages import UNEVEN_ROUNDS, chain, layers_by_layout, placed, unevenness
from shardwright.planner.workload.strategy_table import BALANCED

FITTED = ("kimi-k2", "llama-3.1-70b")
REPORTED = ("qwen3-235b-a22b", "gemma-3-27b", "llama-3.1-8b", "deepseek-v3")
DEPTHS = (2, 4, 8, 16)
ROUNDS = 4


def excesses(name: str) -> NDArray[np.float64]:
    """Of every depth and number of virtual stages: how much longer the walk takes than equal virtual stages of the same
    ranks would, and how much longer all rounds at the pace of their heaviest would."""
    model = chain(models.model(name), 4096)
    rows = []
    for pp in DEPTHS:
        for vpp in range(2, (len(model.layers) + 2) // pp + 1):
            layers = layers_by_layout(model, "interleaved", pp, vpp, BALANCED)
            load = layers.astype(float)
            load[0] += float(model.first @ model.weight)
            load[-1] += float(model.last @ model.weight)
            count = ROUNDS * pp
            program = compile_schedule("interleaved", pp, count, vpp)
            walked = float(walk(program, StageTimes(load, load, load)).makespan_s)
            ranks = 3 * placed(load, "interleaved", pp).sum(axis=0)
            fill = (ranks.sum() - ranks.max()) / vpp
            heavier = float(unevenness(model, layers, pp, np.ones(pp))) / UNEVEN_ROUNDS
            rows.append(((walked - fill) / (count * ranks.max()) - 1, heavier))
    return np.array(rows)


def main() -> int:
    """Print the fitted share and the errors with and without it."""
    fitted = np.concatenate([excesses(name) for name in FITTED])
    share = float(fitted[:, 0] @ fitted[:, 1] / (fitted[:, 1] @ fitted[:, 1]))
    print(f"share fitted on {', '.join(FITTED)}: {share:.3f} (shipped: {UNEVEN_ROUNDS})\n")
    print("| model | pipelines | median error without | p90 | median error with | p90 |")
    print("|---|---|---|---|---|---|")
    for name in (*FITTED, *REPORTED):
        excess = excesses(name)
        without = np.abs(1 / (1 + excess[:, 0]) - 1)
        error = np.abs((1 + UNEVEN_ROUNDS * excess[:, 1]) / (1 + excess[:, 0]) - 1)
        numbers = [np.quantile(each, q) for each in (without, error) for q in (0.5, 0.9)]
        print(f"| {name} | {len(excess)} | " + " | ".join(f"{number:.1%}" for number in numbers) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Ten clusters with one slow link or one slow node each: what the plan makes of it, against the plan that ignores it.

    python -m benchmarks.degraded [--json]

The naive plan is the one found for the healthy cluster, started in the cluster's own order. Both are predicted on the
degraded cluster, and so is the healthy one, whose time nothing on the degraded cluster can beat.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import numpy as np

from shardwright import models
from shardwright.planner.training import plan_training
from shardwright.planner.training.links import on_devices
from shardwright.planner.training.planning import context_of
from shardwright.planner.workload.strategy_table import table_of
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import Topology, cluster, parse_topology


@dataclass(frozen=True)
class Case:
    """A healthy cluster and what is wrong with it: a pair of nodes or one node, and the share that is left."""

    model: str
    healthy: str
    nodes: tuple[int, ...]
    left: float
    gbs: int
    sequence: int


LINKS = (
    Case("llama-3.1-8b", "dgx-h100:8", (0, 1), 0.1, 256, 8192),
    Case("llama-3.1-70b", "dgx-h100:8", (2, 3), 0.1, 256, 8192),
    Case("llama-3.1-70b", "dgx-a100:16", (0, 4), 0.05, 512, 4096),
    Case("mixtral-8x7b", "dgx-h100:8", (3, 4), 0.1, 512, 4096),
    Case("qwen2.5-32b", "dgx-a100:8", (2, 3), 0.05, 256, 4096),
)
NODES = (
    Case("llama-3.1-8b", "dgx-h100:4", (1,), 0.6, 256, 8192),
    Case("llama-3.1-70b", "dgx-h100:8", (0,), 0.7, 256, 8192),
    Case("llama-3.1-70b", "dgx-a100:16", (7,), 0.5, 512, 4096),
    Case("mixtral-8x7b", "dgx-h100:8", (3,), 0.7, 512, 4096),
    Case("qwen2.5-32b", "dgx-a100:8", (6,), 0.8, 256, 4096),
)


@dataclass(frozen=True)
class Outcome:
    """Seconds of a step on the healthy cluster, of the naive plan on the degraded one, and of the plan found for it."""

    model: str
    cluster: str
    fault: str
    healthy_s: float
    naive_s: float
    plan_s: float
    naive: str
    plan: str
    gap: float

    @property
    def naive_loss(self) -> float:
        """What the fault costs the naive plan."""
        return self.naive_s / self.healthy_s - 1

    @property
    def plan_loss(self) -> float:
        """What it costs the plan made for it."""
        return self.plan_s / self.healthy_s - 1


def degraded(case: Case) -> tuple[Topology, str]:
    """The degraded cluster and the words for its fault."""
    healthy = cluster(case.healthy)
    names = [healthy.node_names[node] for node in case.nodes]
    if len(names) == 1:
        fault = {"node": names[0], "compute": case.left}
        return parse_topology(healthy.document | {"degraded": [fault]}), f"{names[0]} computes at {case.left:.0%}"
    rates = np.array(healthy.node_bandwidth_bytes_per_s)
    a, b = case.nodes
    rates[a, b] = rates[b, a] = case.left * rates[a, b]
    matrix = {"unit": "bytes/s", "scope": "node", "matrix": rates.tolist()}
    topology = healthy.with_measured({"node_bandwidth": matrix})
    return topology, f"{names[0]} – {names[1]} at {case.left:.0%} of its bandwidth"


def outcome(case: Case) -> Outcome:
    """Plan for the healthy and for the degraded cluster, and take the naive plan there too."""
    graph = models.model(case.model)
    job = TrainingJob(gbs=case.gbs, sequence_length=case.sequence)
    healthy = plan_training(graph, cluster(case.healthy), job)
    topology, fault = degraded(case)
    naive_table, in_order = table_of([healthy.strategy], graph.num_layers), np.arange(topology.n_devices)
    whole = on_devices(context_of(graph, cluster(case.healthy), job), naive_table, in_order)
    naive = on_devices(context_of(graph, topology, job), naive_table, in_order)
    plan = plan_training(graph, topology, job)
    return Outcome(
        model=case.model,
        cluster=case.healthy,
        fault=fault,
        healthy_s=whole.value,
        naive_s=naive.value,
        plan_s=plan.prediction.step_s,
        naive=healthy.strategy.label(),
        plan=plan.strategy.label(),
        gap=plan.optimality.gap,
    )


def table(rows: list[Outcome]) -> str:
    """The outcomes as Markdown."""
    lines = [
        "| model | cluster | fault | healthy s | naive plan | loss | plan found | loss | gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.model} | {r.cluster} | {r.fault} | {r.healthy_s:.3f} | {r.naive} | {r.naive_loss:.1%} | {r.plan} | "
        f"{r.plan_loss:.1%} | {r.gap:.2%} |"
        for r in rows
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the ten outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    rows = [outcome(case) for case in (*LINKS, *NODES)]
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Speed of the training search: strategies evaluated per CPU second, and time and memory to a proof as clusters grow.

    python -m benchmarks.search_speed [--json]

Every case runs in a process of its own, so that its peak memory and its CPU time are its own: those of the whole plan,
stages cut anywhere included. `evaluated` were costed in full, or cut in the time of so many; `candidates` are what the
proof covers, bounds included. The rate is over all leaves of a sample of nodes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from shardwright.planner.workload.training import Precision

SAMPLED_NODES = 500


@dataclass(frozen=True)
class Case:
    """One search: a model on a cluster for a job."""

    model: str
    cluster: str
    gbs: int
    sequence: int
    precision: Precision


CASES = (
    Case("llama-3.1-70b", "dgx-h100:8", 1024, 8192, "bf16"),
    Case("llama-3.1-405b", "dgx-h100:16", 2048, 8192, "bf16"),
    Case("llama-3.1-405b", "dgx-h100:128", 2048, 8192, "bf16"),
    Case("llama-3.1-405b", "dgx-h100:512", 2048, 8192, "bf16"),
    Case("llama-3.1-405b", "dgx-h100:2048", 2048, 8192, "bf16"),
    Case("deepseek-v3", "hgx-h800:16", 15360, 4096, "fp8"),
    Case("deepseek-v3", "hgx-h800:256", 15360, 4096, "fp8"),
)


@dataclass(frozen=True)
class Measured:
    """What one case took, imports and the construction of the cluster included."""

    model: str
    cluster: str
    devices: int
    status: str
    strategy: str
    candidates: int
    evaluated: int
    gap_cut: float
    cpu_s: float
    peak_mb: float
    per_cpu_s: float


def measure(case: Case) -> Measured:
    """Plan once, then time the evaluation of a sample of the space."""
    from shardwright import models, topologies
    from shardwright.planner.errors import Infeasible
    from shardwright.planner.training import plan_training
    from shardwright.planner.training.planning import context_of, space_of
    from shardwright.planner.training.search import evaluated
    from shardwright.planner.workload.training import TrainingJob

    job = TrainingJob(gbs=case.gbs, sequence_length=case.sequence, precision=case.precision)
    model, cluster = models.model(case.model), topologies.cluster(case.cluster)
    try:
        plan = plan_training(model, cluster, job)
    except Infeasible:
        plan = None
    cpu_s = time.process_time()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    context = context_of(model, cluster, job)
    space = space_of(context)
    nodes = space.nodes()
    sample = np.sort(np.random.default_rng(0).permutation(len(nodes))[:SAMPLED_NODES])
    table, _ = space.leaves(nodes, sample)
    began = time.process_time()
    evaluated(context.costs, table)
    rate = len(table) / (time.process_time() - began)
    beyond = None if plan is None else plan.optimality.beyond
    return Measured(
        model=case.model,
        cluster=case.cluster,
        devices=cluster.n_devices,
        status="infeasible" if plan is None else plan.optimality.status,
        strategy="" if plan is None else plan.strategy.label(),
        candidates=space.count(nodes),
        evaluated=0 if plan is None else plan.optimality.work,
        gap_cut=0.0 if beyond is None else beyond.gap,
        cpu_s=cpu_s,
        peak_mb=peak_mb,
        per_cpu_s=rate,
    )


def table(rows: list[Measured]) -> str:
    """The measurements as Markdown."""
    lines = [
        "| model | cluster | devices | candidates | evaluated | CPU s | peak MB | per CPU s | status | if cut | best |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.model} | {r.cluster} | {r.devices:,} | {r.candidates:,} | {r.evaluated:,} | {r.cpu_s:.2f} | "
        f"{r.peak_mb:.0f} | {r.per_cpu_s:,.0f} | {r.status} | {r.gap_cut:.2%} | {r.strategy} |"
        for r in rows
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the measurements of all cases, or of one given by its number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.case is not None:
        print(json.dumps(asdict(measure(CASES[options.case]))))
        return 0
    rows = []
    for number in range(len(CASES)):
        command = [sys.executable, "-m", "benchmarks.search_speed", "--case", str(number)]
        rows.append(Measured(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)))
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

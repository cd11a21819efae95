"""How long serving questions take: full searches, a trace replay, an exhaustive simulation.

    python -m benchmarks.serving [--trace AZURE.csv] [--json]

CPU seconds of this process and its largest memory. Searches run the five problems on which AIConfigurator 0.12 takes
7 to 52 s; the replay runs every request of a trace (the Azure conversation trace of 2023 has 19,366) through one plan;
the exhaustive simulation runs 512 requests through every plan of llama-3.1-70b on eight H100s, aggregated and split,
the question APEX (arXiv 2411.17651) takes 172 s for. Without `--trace` both use requests drawn like the trace's.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import TypeVar

import numpy as np

from shardwright.models import model
from shardwright.planner.serving.deployments import PoolOf, Proposal, deployment
from shardwright.planner.serving.planning import estimate_serving, load_of_trace, plan_serving
from shardwright.planner.serving.pools import Phase
from shardwright.planner.serving.problem import Problem, problem_of
from shardwright.planner.serving.simulation import simulate
from shardwright.planner.workload.serving import Load, ServingJob, Targets, Trace
from shardwright.planner.workload.serving_layout import Layout, LayoutConstraints
from shardwright.planner.workload.serving_traces import read_trace
from shardwright.topologies import cluster

SEARCHES = (
    ("qwen3-32b", "hgx-h200:4", "fp8"),
    ("llama-3.1-70b", "hgx-h100", "fp8"),
    ("deepseek-v3", "hgx-h200:8", "fp8"),
    ("qwen3-235b-a22b", "hgx-h200:2", "fp8"),
    ("deepseek-v3", "gb200-nvl72", "nvfp4-experts"),
)
Answer = TypeVar("Answer")
TARGETS = Targets(ttft_s=2.0, tpot_s=0.05, percentile=90)
EXHAUSTIVE_REQUESTS = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all and print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--trace")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    trace = read_trace(given.trace) if given.trace else drawn(19_366)
    rows = [*searches(), replay(trace), exhaustive(trace)]
    if given.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        print(f"{row['what']:72} {row['cpu_s']:7.2f} s  {row['peak_mb']:6.0f} MB  {row['found']}")
    return 0


def drawn(requests: int) -> Trace:
    """Requests with the rate and the spread of lengths of the Azure conversation trace."""
    rng = np.random.default_rng(0)
    prompt = np.clip(rng.lognormal(6.6, 1.0, requests), 1, 14_000).astype(np.int64)
    output = np.clip(rng.lognormal(4.9, 0.9, requests), 1, 1000).astype(np.int64)
    arrival = np.cumsum(rng.exponential(1 / 5.53, requests))
    return Trace(arrival, prompt, output, np.zeros(requests, dtype=np.int64), "drawn")


def searches() -> Iterator[dict[str, object]]:
    """Full searches, at a rate and at a concurrency."""
    loads = (Load(isl=4000, osl=1000, rate_per_s=2.0), Load(isl=4000, osl=1000, concurrency=128))
    for (name, where, formats), load in product(SEARCHES, loads):
        graph, topology = model(name), cluster(where)
        used = 64 if "gb200" in where else topology.n_devices
        job = ServingJob(load=load, targets=TARGETS, quantization=formats, most_devices=used, objective="throughput")
        kind = "rate" if load.rate_per_s else "concurrency"
        plan, cpu_s = timed(partial(plan_serving, graph, topology, job))
        pools = " + ".join(f"{pool.workers} × {pool.phase} {pool.layout.label()}" for pool in plan.pools)
        yield _row(f"search {name} {formats} on {used} of {where}, {kind}", cpu_s, pools)


def replay(trace: Trace) -> dict[str, object]:
    """Every request of a trace through one plan."""
    graph, topology = model("llama-3.1-70b"), cluster("hgx-h100")
    job = ServingJob(load=load_of_trace(trace), targets=TARGETS, quantization="fp8")

    pools: list[tuple[Phase, Layout, int]] = [("aggregated", Layout(tp=2), 4)]
    plan, cpu_s = timed(partial(estimate_serving, graph, topology, job, pools, trace=trace))
    seen = plan.prediction
    found = f"ttft p99 {seen.ttft.p99_s * 1e3:.0f} ms, tpot p99 {seen.tpot.p99_s * 1e3:.1f} ms"
    return _row(f"replay of {len(trace):,} requests of trace {trace.name}", cpu_s, found)


def exhaustive(trace: Trace) -> dict[str, object]:
    """512 requests of the trace through every plan of llama-3.1-70b on eight H100s."""
    part = trace.part(slice(0, EXHAUSTIVE_REQUESTS))
    job = ServingJob(load=load_of_trace(part), constraints=LayoutConstraints())

    def run() -> tuple[int, str]:
        problem = problem_of(model("llama-3.1-70b"), cluster("hgx-h100"), job, None)
        best, label, number = float("inf"), "", 0
        for proposal in every_plan(problem):
            outcome = simulate(deployment(proposal, problem.setting, problem.topology), part)
            number += 1
            if outcome.mean("e2e") < best:
                best, label = outcome.mean("e2e"), proposal.label()
        return number, label

    (number, label), cpu_s = timed(run)
    return _row(f"{EXHAUSTIVE_REQUESTS} requests through all {number} plans of llama-3.1-70b on 8 H100", cpu_s, label)


def every_plan(problem: Problem) -> Iterator[Proposal]:
    """Equal copies on all devices, and every split of them between two kinds of worker."""
    supply = problem.supply[0]
    for worker in problem.types:
        if supply % worker.devices == 0:
            yield Proposal((PoolOf(worker, "aggregated", supply // worker.devices),))
    for prefill, decode in product(problem.types, problem.types):
        for number in range(1, supply // prefill.devices + 1):
            rest = supply - number * prefill.devices
            if rest and rest % decode.devices == 0:
                pools = (PoolOf(prefill, "prefill", number), PoolOf(decode, "decode", rest // decode.devices))
                yield Proposal(pools)


def timed(run: Callable[[], Answer]) -> tuple[Answer, float]:
    """The answer of a function and the CPU seconds it took."""
    started = time.process_time()
    answer = run()
    return answer, time.process_time() - started


def _row(what: str, cpu_s: float, found: str) -> dict[str, object]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"what": what, "cpu_s": round(cpu_s, 3), "peak_mb": round(peak, 1), "found": found}


if __name__ == "__main__":
    sys.exit(main())

"""How long serving questions take, full searches, a trace replay, an exhaustive simulation, and whether rates last.

    python -m benchmarks.serving [--trace AZURE.csv] [--only searches|replays|lasting] [--json]

CPU seconds and largest memory, of whole `shardwright serve … --json` commands for searches (imports included, their
bytecode kept as an installation keeps it, the median of three runs of the objective that a first run found slowest) and
of this process for the rest. Searches are the five problems on which AIConfigurator 0.12 takes 7 to 52 s; the replay
runs every request of a trace (the Azure conversation trace of 2023 has 19,366) through one plan; the exhaustive
simulation runs 512 requests through every plan of llama-3.1-70b on eight H100s, aggregated and split, the question APEX
(arXiv 2411.17651) takes 172 s for. Without
`--trace` both use requests drawn like the trace's.

Rates last where the plan of the highest rate meets its targets in a run ten times as long as the search's own, of
requests that the search has not seen.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from typing import TypeVar

import numpy as np

from shardwright.models import model
from shardwright.planner.cli.common import parse_duration
from shardwright.planner.serving.deployments import PoolOf, Proposal, deployment
from shardwright.planner.serving.open_loop import search_rate
from shardwright.planner.serving.planning import estimate_serving, load_of_trace
from shardwright.planner.serving.pools import Phase
from shardwright.planner.serving.problem import Problem, problem_of
from shardwright.planner.serving.simulation import simulate
from shardwright.planner.workload.serving import OBJECTIVES, Load, ServingJob, Targets, Trace
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
LENGTHS = (("4000", "1000", "2s", "50ms"), ("1000", "200", "500ms", "30ms"), ("8000", "1000", "5s", "100ms"))
Answer = TypeVar("Answer")
TARGETS = Targets(ttft_s=2.0, tpot_s=0.05, percentile=90)
EXHAUSTIVE_REQUESTS = 512
UNSEEN = 7


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all and print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--trace")
    parser.add_argument("--only", choices=("searches", "replays", "lasting"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    trace = read_trace(given.trace) if given.trace else drawn(19_366)
    parts = {
        "searches": searches,
        "replays": lambda: iter([replay(trace), exhaustive(trace)]),
        "lasting": lasting,
    }
    chosen = {name: rows for name, rows in parts.items() if given.only in (None, name)}
    if given.json:
        print(json.dumps({name: list(rows()) for name, rows in chosen.items()}, indent=1))
        return 0
    for rows in chosen.values():
        for place, row in enumerate(rows()):
            if place == 0:
                print(f"\n| {' | '.join(row)} |\n|{'---|' * len(row)}")
            print(f"| {' | '.join(map(str, row.values()))} |", flush=True)
    return 0


def drawn(requests: int) -> Trace:
    """Requests with the rate and the spread of lengths of the Azure conversation trace."""
    rng = np.random.default_rng(0)
    prompt = np.clip(rng.lognormal(6.6, 1.0, requests), 1, 14_000).astype(np.int64)
    output = np.clip(rng.lognormal(4.9, 0.9, requests), 1, 1000).astype(np.int64)
    arrival = np.cumsum(rng.exponential(1 / 5.53, requests))
    return Trace(arrival, prompt, output, np.zeros(requests, dtype=np.int64), "drawn")


def searches() -> Iterator[dict[str, object]]:
    """Full searches as whole commands, at a rate and at a concurrency, for short and long prompts."""
    loads = (("--rate", "2"), ("--concurrency", "128"))
    for (name, where, formats), load, lengths in product(SEARCHES, loads, LENGTHS):
        used = 64 if "gb200" in where else cluster(where).n_devices
        asked = ["serve", name, "--cluster", where, "--quantization", formats, "--gpus", str(used), "--json"]
        asked += [*load, "--isl", lengths[0], "--osl", lengths[1], "--ttft", lengths[2], "--tpot", lengths[3]]
        asked += ["--percentile", "90"]
        first, goal = max((command([*asked, "--objective", goal]), goal) for goal in OBJECTIVES)
        again = [command([*asked, "--objective", goal]) for _ in range(2)]
        cpu_s, peak_mb, outcome = sorted([first, *again])[1]
        what = f"serve {name} {formats} on {used} of {where}, {lengths[0]}/{lengths[1]}, {load[0][2:]}"
        yield {"what": what, "cpu_s": round(cpu_s, 3), "peak_mb": round(peak_mb, 1), "found": outcome}


def lasting() -> Iterator[dict[str, object]]:
    """Plans of the highest rate: latencies beside targets in the search's run and in one ten times as long."""
    for (name, where, formats), lengths, percentile in product(SEARCHES, LENGTHS, (90.0, 99.0)):
        isl, osl = int(lengths[0]), int(lengths[1])
        targets = Targets(ttft_s=parse_duration(lengths[2]), tpot_s=parse_duration(lengths[3]), percentile=percentile)
        topology = cluster(where)
        job = ServingJob(
            load=Load(isl=isl, osl=osl, rate_per_s=1.0),
            targets=targets,
            objective="throughput",
            quantization=formats,
            most_devices=min(64, topology.n_devices),
        )
        problem = problem_of(model(name), topology, job, None)
        found = search_rate(problem)
        longer = Load(isl=isl, osl=osl, rate_per_s=found.value, seed=UNSEEN).sample(10 * len(found.outcome.ttft_s))
        again = simulate(deployment(found.proposal, problem.setting, topology), longer)
        row: dict[str, object] = {
            "highest rate of": f"{name} {formats} on {job.most_devices} of {where}, {isl}/{osl}, p{percentile:g}",
            "requests/s": f"{found.value:.4g}",
            "bound": f"{found.bound:.4g}",
            "requests run": len(found.outcome.ttft_s),
        }
        for metric, limit in targets.limits().items():
            row[f"{metric} target"] = f"{limit * 1e3:g} ms"
            row[f"{metric} in the search"] = f"{found.outcome.percentile(metric, percentile) * 1e3:.4g} ms"
            row[f"{metric} in ten times as long"] = f"{again.percentile(metric, percentile) * 1e3:.4g} ms"
        yield row


def command(arguments: Sequence[str]) -> tuple[float, float, str]:
    """CPU seconds, largest memory in MB and the outcome of one `shardwright` command."""
    program = [sys.executable, "-c", "from shardwright.planner.cli import main; main()", *arguments]
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(program, stdout=output, stderr=subprocess.DEVNULL, env=installed())
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    outcome = arguments[-1]
    if child.returncode == 0:
        pools = (f"{pool['workers']} × {pool['phase']}" for pool in json.loads(text)["pools"])
        outcome += ": " + " + ".join(pools)
    else:
        outcome += f": exit {child.returncode}"
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, outcome


@cache
def kept_bytecode() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes with this process."""
    return tempfile.TemporaryDirectory()


@cache
def installed() -> dict[str, str]:
    """The environment with the bytecode of all modules that a search imports kept, which an installer compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = kept_bytecode().name
    for load in (["--rate", "1"], ["--concurrency", "1"]):
        small = ["serve", "llama-3.1-8b", "--cluster", "hgx-h100", "--isl", "100", "--osl", "10", *load, "--json"]
        program = [sys.executable, "-c", "from shardwright.planner.cli import main; main()", *small]
        subprocess.run(program, check=True, stdout=subprocess.DEVNULL, env=environment)
    return environment


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

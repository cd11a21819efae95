"""The fleet planner: Mélange's published case, speed and proof on large tables, and how many replicas it looks into.

    python -m benchmarks.fleet [--json]
    python -m benchmarks.fleet --seeds 5

The published case runs where its reference file lies beside the repository. Tables for speed are generated, with a
random distribution of sizes: throughputs of a roofline in both lengths, each GPU type with its own speeds; scattered
ones, drawn independently (log-normal, one in ten zero); and ones that follow the price but for 15 % either way. CPU
seconds are of the program alone, imports left out; a search for speed ends after 20 of them. With `--seeds` only
the generated tables run, drawn anew that many times, each search ended at its target.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from shardwright.planner import load_model
from shardwright.planner.fleet.candidates import request_classes
from shardwright.planner.fleet.columns import Columns
from shardwright.planner.fleet.job import plan_fleet
from shardwright.planner.fleet.melange import GpuInfo, MelangeConfig, melange_problem, read_melange
from shardwright.planner.fleet.planning import plan_problem
from shardwright.planner.fleet.program import PROOF, formulate
from shardwright.planner.workload.fleet import FleetJob, Offer, ServedModel
from shardwright.planner.workload.serving import LengthBin, Targets
from shardwright.solvers.binpacking import solve
from shardwright.solvers.binpacking.problem import Floats
from shardwright.solvers.solution import AnyOf, Progress

ARENA = Path(__file__).resolve().parent.parent.parent / "shared" / "fleet" / "melange_arena.json"
RATES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
TABLES = ((4, 6, 8), (12, 12, 4), (20, 20, 8))
LOADS = (16.0, 200.0)
KINDS = ("roofline", "scattered", "by price")
MOST_CPU_S = 20.0
MOST_GAP = 1e-4
TARGETS_S = {4: 0.3, 12: 5.0, 20: 20.0}
"""CPU seconds by number of types within which a table is to be proven to 0.01 %."""
LENGTHS = (25, 100, 250, 500, 1000, 2000)
GPUS = {
    "t4": 0.53, "a10g": 1.01, "l4": 0.8, "l40s": 1.55, "a30": 1.1, "v100": 1.6, "rtx-4090": 0.69, "rtx-6000-ada": 0.77,
    "a6000": 1.09, "a100-40gb": 2.75, "a100-80gb": 1.79, "a100-pcie": 1.35, "h100": 2.95, "h100-pcie": 2.6,
    "h100-nvl": 2.9, "h200": 3.5, "gh200": 2.29, "b200": 5.5, "mi300x": 4.5, "rtx-pro-6000": 1.9,
}  # fmt: skip


@dataclass(frozen=True)
class Solved:
    """One generated table."""

    kind: str
    types: int
    sizes: int
    slices: int
    rate: float
    usd_per_hour: float
    gap: float
    cpu_s: float


@dataclass(frozen=True)
class CpuSeconds:
    """Stop when this process has computed until then."""

    until: float

    def __call__(self, progress: Progress) -> bool:
        """True when the time is up."""
        return time.process_time() >= self.until


@dataclass(frozen=True)
class Looked:
    """One model over all GPU types: layouts there are, layouts looked into before every class has its cheapest replica,
    and before the fleet is proven; split replicas planned with, of all there are, where they are tried."""

    model: str
    targets: Targets
    rate: float
    layouts: int
    first: int
    proven: int
    split: tuple[int, ...]
    usd_per_hour: float
    gap: float
    cpu_s: float


def throughputs(kind: str, cost: Floats, sizes: int, random: np.random.Generator) -> Floats:
    """Requests per second of every GPU type, [type, input, output]."""
    shape = (len(cost), sizes, sizes)
    if kind == "roofline":
        lengths = np.geomspace(25, 4000, sizes)
        speed = (cost * random.uniform(0.6, 1.4, len(cost)))[:, None, None]
        prefill, decode = random.uniform(0.5, 2, (2, len(cost), 1, 1))
        falling: Floats = speed * 300 / (0.3 * prefill * lengths[:, None] + decode * lengths + 20)
        return falling
    if kind == "scattered":
        drawn = random.lognormal(1.0, 1.0, shape)
        drawn[1:][random.random((len(cost) - 1, sizes, sizes)) < 0.1] = 0.0
        return drawn
    base = random.lognormal(0.5, 0.8, (sizes, sizes))
    priced: Floats = cost[:, None, None] * base * random.uniform(0.85, 1.15, shape)
    return priced


def table(kind: str, types: int, sizes: int, rate: float, slices: int, seed: int = 0) -> MelangeConfig:
    """A generated configuration, the same for the same arguments."""
    random = np.random.default_rng(seed)
    cost = np.round(random.uniform(0.5, 8, types), 2)
    throughput = throughputs(kind, cost, sizes, random)
    share = random.dirichlet(np.ones(sizes * sizes)).reshape(sizes, sizes)
    gpus = {
        f"type-{at}": GpuInfo(float(usd), tuple(map(tuple, rows.tolist())))
        for at, (usd, rows) in enumerate(zip(cost, throughput, strict=True))
    }
    return MelangeConfig(gpus, tuple(map(tuple, share.tolist())), rate, slices)


def speed() -> list[Solved]:
    """The generated tables at both loads."""
    _compile()
    return [_solved(kind, shape, rate, 0, MOST_CPU_S) for kind, shape, rate in itertools.product(KINDS, TABLES, LOADS)]


def drawn(seeds: int) -> list[tuple[str, int, float, int]]:
    """Kind, types and load, and how many tables drawn with seeds 1, 2, … are proven within the target."""
    _compile()
    rows = []
    for kind, shape, rate in itertools.product(KINDS, TABLES, LOADS):
        target = TARGETS_S[shape[0]]
        found = [_solved(kind, shape, rate, seed, target) for seed in range(1, seeds + 1)]
        rows.append((kind, shape[0], rate, sum(each.gap <= MOST_GAP and each.cpu_s <= target for each in found)))
    return rows


def _compile() -> None:
    """Compile the inner loop once, so that no table pays for it."""
    solve(formulate(melange_problem(table("scattered", 12, 12, 16.0, 4))))


def _solved(kind: str, shape: tuple[int, int, int], rate: float, seed: int, most_cpu_s: float) -> Solved:
    types, sizes, slices = shape
    packing = formulate(melange_problem(table(kind, types, sizes, rate, slices, seed)))
    started = time.process_time()
    found = solve(packing, AnyOf((PROOF, CpuSeconds(started + most_cpu_s))))
    seconds = time.process_time() - started
    return Solved(kind, types, sizes, slices, rate, found.value, found.gap, seconds)


def arena() -> list[tuple[float, float, float, dict[str, float]]]:
    """Rate, cost, bound and the single-type costs of the published case."""
    rows = []
    for rate in RATES:
        plan = plan_problem(read_melange(str(ARENA), rate)[0])
        assert plan.rental is not None
        single = {each.gpu: each.usd_per_hour or 0.0 for each in plan.rental.single_type}
        rows.append((rate, plan.optimality.value, plan.optimality.bound, single))
    return rows


def lazy(model: str, formats: tuple[str, ...], rate: float, targets: Targets, *, split: bool = False) -> Looked:
    """The fleet for a model over all GPU types and 36 sizes, with prefill and decode pools too where `split`."""
    served = ServedModel(
        model=model,
        rate_per_s=rate,
        lengths=tuple(LengthBin(isl=isl, osl=osl) for isl in LENGTHS for osl in LENGTHS),
        targets=targets,
        formats=formats,
    )
    offers = tuple(Offer(gpu=gpu, usd_per_hour=usd) for gpu, usd in GPUS.items())
    job = FleetJob(models=(served,), offers=offers, simulate=False, disaggregated=split)
    columns = Columns(job, request_classes(job), {model: load_model(model)}, [])
    columns.serve_all()
    started = time.process_time()
    plan = plan_fleet(job)
    seconds = time.process_time() - started
    (note,) = [line for line in plan.assumptions if "layouts were looked into" in line]
    proven = int(note.split()[0])
    pairs = [int(word) for line in plan.assumptions if "split replicas" in line for word in line.split()[:3:2]]
    best = plan.optimality
    numbers = (columns.layouts_all, columns.layouts_made, proven, tuple(pairs))
    return Looked(model, targets, rate, *numbers, best.value, best.gap, seconds)


def main() -> None:
    """Print the tables, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only JSON on stdout")
    parser.add_argument("--seeds", type=int, default=0, help="only the generated tables, drawn this many times")
    arguments = parser.parse_args()
    as_json = arguments.json
    if arguments.seeds:
        shares = drawn(arguments.seeds)
        if as_json:
            print(json.dumps(shares))
            return
        print("| table | GPU types | requests/s | proven within its target |\n|---|---|---|---|")
        for kind, types, rate, proven in shares:
            print(f"| {kind} | {types} | {rate:g} | {proven} of {arguments.seeds} |")
        return
    published = arena() if ARENA.exists() else []
    solved = speed()
    looked = [
        lazy(model, formats, rate, targets, split=split)
        for targets in (Targets(ttft_s=2.0, tpot_s=0.1), Targets(ttft_s=1.0, tpot_s=0.04))
        for model, formats, rate in (("llama-3.1-8b", ("bf16",), 50.0), ("llama-3.1-70b", ("bf16", "fp8"), 20.0))
        for split in (False, True)
    ]
    if as_json:
        print(
            json.dumps(
                {
                    "arena": published,
                    "speed": [*map(asdict, solved)],
                    "lazy": [asdict(each) | {"targets": each.targets.limits()} for each in looked],
                }
            )
        )
        return
    if published:
        print("| requests/s | mix, $/h | bound, $/h |", " | ".join(published[0][3]), "|")
        print("|" + "---|" * (3 + len(published[0][3])))
        for rate, value, bound, single in published:
            print(f"| {rate:g} | {value:.2f} | {bound:.2f} |", " | ".join(f"{usd:.2f}" for usd in single.values()), "|")
    print(
        "\n| table | GPU types | sizes | slices | requests/s | $/h | gap | CPU s |\n|---|---|---|---|---|---|---|---|"
    )
    for row in solved:
        size = f"{row.sizes} × {row.sizes}"
        print(f"| {row.kind} | {row.types} | {size} | {row.slices} | {row.rate:g} | {row.usd_per_hour:.2f} | "
              f"{row.gap:.4%} | {row.cpu_s:.2f} |")  # fmt: skip
    print("\n| model | TTFT | TPOT | requests/s | layouts | for the relaxation | for the proof | split replicas | of | "
          "$/h | gap | CPU s |\n|---|---|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for each in looked:
        split = " | ".join(f"{number:,}" for number in each.split) or "– | –"
        print(f"| {each.model} | {each.targets.ttft_s:g} s | {1e3 * (each.targets.tpot_s or 0):g} ms | {each.rate:g} | "
              f"{each.layouts} | {each.first} | {each.proven} | {split} | {each.usd_per_hour:.2f} | {each.gap:.4%} | "
              f"{each.cpu_s:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()

"""How evenly and how near experts are placed, with what certified gap, beside the usual and the published ways.

    python -m benchmarks.experts DIR [--part NAME] [--certify NAME] [--work N]

DIR holds `instances.py` (reproducible large instances), `mixtral_top2_577_tokens.npy` (expert ids of 577 tokens) and
`deepseek_r1_counts/` (token counts of six workloads). `--part` runs one of instances, mixtral, replicas and drift;
`--certify` instead tightens the bound of the instances it names, which takes minutes each. Every plan is one call of
the public `plan_experts`; CPU seconds are that call's alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shardwright.models import routing_from_transitions
from shardwright.planner import ExpertPlan, ExpertRequest, plan_experts
from shardwright.planner.experts.cluster import ExpertCluster, flat_cluster
from shardwright.planner.experts.replanning import Replan, replan_experts
from shardwright.planner.experts.workloads import Workloads, load_workloads, workloads_of

SHAPES = {"olmoe8": (8, 8), "qwen16": (16, 8), "dsv3_32": (32, 8), "dsv3_64": (64, 8)}
LINK_RATIO = 9.0

REPLICAS = {
    (8, 32): (1.0001, 1.0000),
    (32, 32): (1.0003, 1.0002),
    (64, 64): (1.0013, 1.0008),
    (72, 32): (1.0036, 1.0022),
    (96, 32): (1.025, 1.013),
    (128, 128): (1.005, 1.003),
    (144, 32): (1.264, 1.161),
}
NODE_LOCAL = {(32, 32): 8, (64, 64): 8, (128, 128): 8}
GROUPS = 8
JUDGED = ("prefill_in4096", "decode_in1000out1000")
EVERY = (
    "prefill_in1024", "prefill_in2048", "prefill_in4096", "prefill_in1000out1000",
    "decode_in500out1500", "decode_in1000out1000",
)  # fmt: skip
MIXTRAL = {2: (11.41, 15.88), 4: (18.24, 23.29), 8: (22.74, 27.19)}
EXPERT_BYTES = 44e6
PUBLISHED_WORK = 10_000_000


def timed(workloads: Workloads, cluster: ExpertCluster, **options: Any) -> tuple[ExpertPlan, float]:
    """A plan and the CPU seconds it took."""
    started = time.process_time()
    plan = plan_experts(workloads, cluster, ExpertRequest(**options))
    return plan, time.process_time() - started


def instance(folder: Path, name: str) -> tuple[Workloads, ExpertCluster]:
    """One of the reproducible instances, and its cluster."""
    spec = importlib.util.spec_from_file_location("instances", folder / "instances.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    flow, loads, _ = module.instance(name)
    gpus, per_node = SHAPES[name]
    routing = routing_from_transitions(name, flow, loads)
    return workloads_of([routing]), flat_cluster(gpus, min(gpus, per_node), LINK_RATIO)


def instance_rows(folder: Path, work: dict[str, int]) -> Iterator[str]:
    """Every instance by every method: traffic, load, the weighted value, its bound and gap, time."""
    yield "| instance | method | traffic | load mean | load worst | value | bound | gap | CPU s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    ways: dict[str, dict[str, Any]] = {
        "joint": {"objective": "joint"},
        "load alone": {"objective": "load"},
        "MoETuner's two stages": {"objective": "joint", "method": "moetuner", "work": PUBLISHED_WORK},
        "ExFlow's bisection": {"objective": "joint", "method": "exflow", "work": PUBLISHED_WORK},
    }
    for name in SHAPES:
        workloads, cluster = instance(folder, name)
        for at, (label, options) in enumerate(ways.items()):
            plan, seconds = timed(workloads, cluster, **(work | options))
            if at == 0:
                yield _usual(name, plan)
            yield _row(name, label, plan, seconds)


def _usual(name: str, plan: ExpertPlan) -> str:
    usual = plan.alternatives[0]
    return f"| {name} | experts in order | {usual.why} | | | {usual.value:.4f} | | | |"


def _row(name: str, label: str, plan: ExpertPlan, seconds: float) -> str:
    score, best = plan.scores[0], plan.optimality
    return (
        f"| {name} | {label} | {score.traffic:.4f} | {score.load_ratio:.4f} | {score.load_ratio_worst:.4f} "
        f"| {best.value:.4f} | {best.bound:.4f} | {best.gap:.1%} | {seconds:.1f} |"
    )


def certified_rows(folder: Path, names: list[str], work: dict[str, int]) -> Iterator[str]:
    """The tight bound of the joint objective, and what it says of traffic alone: the load's own bound taken off."""
    yield "| instance | joint | bound | gap | gap / bound | least traffic | bound | gap | gap / bound | CPU s |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name in names:
        workloads, cluster = instance(folder, name)
        plan, seconds = timed(workloads, cluster, objective="joint", certify=True, **work)
        even, _ = timed(workloads, cluster, objective="load")
        near, _ = timed(workloads, cluster, objective="transitions", **work)
        bound = plan.optimality.bound - plan.load_weight * even.optimality.bound
        cells = [
            f"{value:.4f} | {least:.4f} | {1 - least / value:.1%} | {value / least - 1:.1%}"
            for value, least in ((plan.optimality.value, plan.optimality.bound), (near.optimality.value, bound))
        ]
        yield f"| {name} | {' | '.join(cells)} | {seconds:.0f} |"


def mixtral_rows(folder: Path) -> Iterator[str]:
    """Hops per token of Mixtral's top-1 transitions on uniform links, proven least."""
    yield "| GPUs | in order | least, published | found | status | CPU s |"
    yield "|---|---|---|---|---|---|"
    workloads = load_workloads([str(folder / "mixtral_top2_577_tokens.npy")], None, 1, 0.0)
    for gpus, (least, usual) in MIXTRAL.items():
        plan, seconds = timed(workloads, flat_cluster(gpus), objective="transitions")
        found = f"{plan.scores[0].hops_per_token:.2f}"
        yield f"| {gpus} | {usual} | {least} | {found} | {plan.optimality.status} | {seconds:.1f} |"


def counts(folder: Path, *names: str) -> Workloads:
    """DeepSeek-R1's token counts of some workloads."""
    return load_workloads([str(folder / "deepseek_r1_counts" / f"{name}.json") for name in names], None, None, 0.0)


def replica_rows(folder: Path) -> Iterator[str]:
    """Load ratio of DeepSeek-R1 with redundant copies, for any GPU and with the groups of the router kept on nodes."""
    yield "| GPUs | redundant | workload | at most | found | bound | CPU s | node-local | bound |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (gpus, redundant), goals in REPLICAS.items():
        for name, goal in zip(JUDGED, goals, strict=True):
            workloads = counts(folder, name)
            plan, seconds = timed(workloads, flat_cluster(gpus), objective="load", redundant=redundant)
            local = "| – | – |"
            if (gpus, redundant) in NODE_LOCAL:
                cluster = flat_cluster(gpus, gpus // min(GROUPS, gpus // 8))
                found, _ = timed(workloads, cluster, objective="load", redundant=redundant, expert_groups=GROUPS)
                local = f"| {found.optimality.value:.4f} | {found.optimality.bound:.4f} |"
            best = plan.optimality
            cells = f"| {gpus} | {redundant} | {name} | {goal} | {best.value:.4f} | {best.bound:.4f} | {seconds:.2f} "
            yield cells + local


def drift_rows(folder: Path) -> Iterator[str]:
    """What one plan for all workloads, plans for one each, and a re-plan do at 32 GPUs and 32 redundant copies."""
    cluster, request = flat_cluster(32), ExpertRequest(objective="load", redundant=32)
    plans = {
        "all six, worst case": plan_experts(counts(folder, *EVERY), cluster, request),
        "prefill alone": plan_experts(counts(folder, *EVERY[:3]), cluster, request),
        "decode alone": plan_experts(counts(folder, *EVERY[4:]), cluster, request),
    }
    yield "| planned for | " + " | ".join(EVERY) + " |"
    yield "|---" * (len(EVERY) + 1) + "|"
    for label, plan in plans.items():
        kept = Replan(expert_bytes=EXPERT_BYTES, budget_bytes=0)
        ratios = [replan_experts(plan, counts(folder, name), cluster, request, kept).scores[0] for name in EVERY]
        yield (
            f"| {label} | " + " | ".join(f"{s.load_ratio:.3f} (worst {s.load_ratio_worst:.3f})" for s in ratios) + " |"
        )
    current = plan_experts(counts(folder, "prefill_in1024"), cluster, request)
    limits = Replan(expert_bytes=EXPERT_BYTES, target=1.05)
    plan = replan_experts(current, counts(folder, "prefill_in2048"), cluster, request, limits)
    move = plan.migration
    assert move is not None
    yield ""
    yield (
        f"From a plan for prefill_in1024 to one for prefill_in2048 with every layer at most 1.05: {move.moved} of "
        f"{move.residents} copies move ({move.moved / move.residents:.2%}, {move.bytes / 1e9:.1f} GB at "
        f"{EXPERT_BYTES / 1e6:g} MB each); load {plan.scores[0].load_ratio:.4f}, "
        f"worst layer {plan.scores[0].load_ratio_worst:.4f}."
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", choices=("instances", "mixtral", "replicas", "drift"))
    parser.add_argument("--certify", action="append", default=[], choices=tuple(SHAPES))
    parser.add_argument("--work", type=int, help="swaps to propose per plan, instead of the default")
    given = parser.parse_args()
    work = {} if given.work is None else {"work": given.work}
    warm = workloads_of([routing_from_transitions("warm", np.ones((2, 8, 8)))])
    for method in ("auto", "moetuner", "exflow"):
        timed(warm, flat_cluster(2), method=method, work=1000)
    parts = {
        "certified": lambda: certified_rows(given.folder, given.certify, work),
        "instances": lambda: instance_rows(given.folder, work),
        "mixtral": lambda: mixtral_rows(given.folder),
        "replicas": lambda: replica_rows(given.folder),
        "drift": lambda: drift_rows(given.folder),
    }
    chosen = ["certified"] if given.certify else [given.part] if given.part else list(parts)[1:]
    for name in chosen:
        print(f"\n## {name.capitalize()}\n")
        for line in parts[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()

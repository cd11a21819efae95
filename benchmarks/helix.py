"""Layers on unequal clusters: flow found, bound and CPU seconds, and both placements in a simulation that knows caches.

    python -m benchmarks.helix DIR

DIR is the folder of the reference data: Helix's placement problems (`profiles/helix/cases`), measured seconds of a
layer (`profiles/helix/profiles`), the clusters' links, and Azure's conversation trace (`traces/azure`). The simulation
uses none of the throughputs that the placement was made from: a node's pace follows from the measured seconds of a
layer at the batch that its cache and the requests in flight allow.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from shardwright.planner import load_trace
from shardwright.planner.fleet.chain_simulation import (
    ChainLink,
    ChainLoad,
    ChainNode,
    ChainOutcome,
    ChainSystem,
    LayerTimes,
    simulate_chains,
)
from shardwright.planner.fleet.layer_case import read_helix
from shardwright.planner.fleet.layer_planning import LayerRequest, plan_layers
from shardwright.planner.plan.layer_placement import Chains
from shardwright.planner.validate import validate_plan

CLUSTERS = {
    "a100x4_llama30b": "single_cluster__a100",
    "l4x8_llama30b": "single_cluster__l4",
    "t4x12_llama30b": "single_cluster__t4",
    "cluster10_llama30b": "ablation__cluster10",
    "single24_llama70b": "single_cluster__cluster24",
    "3region24_llama70b": "distributed_clusters__3cluster24",
    "hetero42_llama70b": "high_heterogeneity__cluster42",
}
KNOWN = (1044.53, 252.65, 397.685, 286.58, 2045.64, 1212.18, 4137.5)
MEMORY_GB = {"A100": 40, "V100": 16, "L4": 24, "L4x2": 48, "T4": 16, "T4x2": 32, "T4x4": 64}
MODELS = {
    # bytes of a layer's weights in 16 bits, bytes of keys and values per token and layer, bytes of a hidden state
    "llama30b": ("llama1_30b", 2 * (4 * 6656**2 + 3 * 6656 * 17920), 4 * 6656, 2 * 6656),
    "llama70b": ("llama2_70b", 2 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672), 4 * 1024, 2 * 8192),
}
MEMORY_SHARE = 0.9
MOST_PROMPT, MOST_OUTPUT = 2048, 1024
REQUESTS = 2000
SECONDS = 150.0
FEW = 32


def layer_times(folder: Path, model: str, kind: str) -> LayerTimes:
    """Measured seconds of a layer; below the first batch measured a step takes as long as that one."""

    def points(phase: str) -> list[tuple[float, float]]:
        with (folder / f"{model}__{kind.lower()}__{phase}.csv").open() as file:
            return [(float(x), float(y) / 1e3) for x, y in csv.reader(file) if float(x) > 0]

    decode, prompt = points("decode"), points("prompt")
    return LayerTimes(((1.0, decode[0][1]), *prompt), tuple(decode))


def system_of(chains: Chains, reference: Path, case: str) -> ChainSystem:
    """The placement on the measured nodes and the given links."""
    folder = reference / "profiles" / "helix"
    model, layer_bytes, cache_bytes, token_bytes = MODELS[case.rsplit("_", 1)[1]]
    nodes = {}
    for holder in chains.holders:
        size = holder.end - holder.start
        if size:
            free = MEMORY_SHARE * MEMORY_GB[holder.type] * 1e9 - size * layer_bytes
            times = layer_times(folder / "profiles", model, holder.type)
            nodes[holder.node] = ChainNode(size, free / (size * cache_bytes), times)
    given = {}
    for link in json.loads((folder / f"{CLUSTERS[case]}.json").read_text())["links"]:
        for a, b in ((link["a"], link["b"]), (link["b"], link["a"])):
            given[a, b] = link
    links = {
        (s.source, s.target): ChainLink(
            s.tokens_per_s, given[s.source, s.target]["bytes_per_s"], given[s.source, s.target]["latency_s"]
        )
        for s in chains.streams
    }
    return ChainSystem(nodes, links, token_bytes)


def loads(reference: Path, system: ChainSystem) -> tuple[ChainLoad, ChainLoad, ChainLoad]:
    """As many requests as the caches hold, decoding only and with their prompts, and a few with their prompts."""
    trace = load_trace(str(reference / "traces" / "azure" / "AzureLLMInferenceTrace_conv.csv"))
    pairs = zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    kept = [(p, o) for p, o in pairs if 0 < p <= MOST_PROMPT and 0 < o <= MOST_OUTPUT][:REQUESTS]
    held = sum(node.layers * node.cache_tokens for node in system.nodes.values())
    whole = sum(node.layers for node in system.nodes.values())
    mean = sum(p + o for p, o in kept) / len(kept)
    most = max(FEW, round(1.5 * len(system.nodes) * held / whole / mean))
    full = ChainLoad(tuple(p for p, _ in kept), tuple(o for _, o in kept), most, SECONDS)
    return replace(full, prompts=False), full, replace(full, concurrency=FEW)


def row(name: str, chains: Chains, outcomes: list[ChainOutcome]) -> str:
    """One line of the simulation's table."""
    decoding, full, few = outcomes
    return (
        f"| {name} | {chains.stages} | {chains.tokens_per_s:.0f} | {decoding.tokens_per_s:.0f} | "
        f"{decoding.in_flight:.0f} | {1e3 * decoding.token_s:.0f} | {full.tokens_per_s:.0f} | "
        f"{1e3 * full.token_s:.0f} | {few.tokens_per_s:.0f} | {1e3 * few.token_s:.0f} | {few.prompt_s:.1f} |"
    )


def main() -> int:
    """Print the table of placements and the table of simulations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reference", type=Path, metavar="DIR", help="folder of the reference data")
    reference = parser.parse_args().reference
    cases = reference / "profiles" / "helix" / "cases"
    if not cases.is_dir():
        print(f"no folder {cases}", file=sys.stderr)
        return 2
    print("| case | best known | found | bound | gap | stages | capped: stages | capped: found | CPU s, both |")
    print("|---|---|---|---|---|---|---|---|---|")
    plans = {}
    for case, known in zip(CLUSTERS, KNOWN, strict=True):
        started = time.process_time()
        plan = plan_layers(read_helix(str(cases / f"{case}.json")), LayerRequest())
        seconds = time.process_time() - started
        assert plan.placement is not None
        assert validate_plan(plan) == []
        best, capped = plan.placement.best, plan.placement.capped
        claim = plan.optimality
        print(
            f"| {case} | {known} | {claim.value:.2f} | {claim.bound:.2f} | {100 * claim.gap:.1f} % | {best.stages} | "
            f"{capped.stages} | {capped.tokens_per_s:.2f} | {seconds:.2f} |",
            flush=True,
        )
        plans[case] = plan.placement
    print(
        "\n| case | stages | flow | decoding | in flight | ms/token | served | ms/token | served | ms/token | TTFT, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for case, placement in plans.items():
        for name, chains in (("most flow", placement.best), ("capped", placement.capped)):
            system = system_of(chains, reference, case)
            outcomes = [simulate_chains(system, load) for load in loads(reference, system)]
            print(row(f"{case}, {name}", chains, outcomes), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How close node orders come to the best known and to a bound, and how time and gap grow with nodes.

    python -m benchmarks.mapping [--json]

With the two mpiGraph snapshots of a real 16-node cluster that Pipette published, where they lie beside the repository,
nodes play a pp × d grid: a micro-batch's activations go down every column and back, and the slowest link of every row's
ring carries the gradient reduction. `--json` prints those cases alone. Generated clusters of 16 to 512 nodes (four link
classes, 5 % noise, 2 % slow links) always run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from shardwright.solvers import Work
from shardwright.solvers.mapping import MappingProblem, Term, evaluate, solve

SNAPSHOTS = Path(__file__).resolve().parent.parent.parent / "shared" / "topologies" / "pipette"
ACTIVATION_BYTES = 4 * 1024 * 3072 * 4
CLASSES_GB_PER_S = (25.0, 18.0, 12.0, 6.0)


def grid_problem(bytes_per_s: np.ndarray, pp: int) -> MappingProblem:
    """Milliseconds of one micro-batch down every pipeline and of a ring all-reduce in every stage.

    The published benchmark's job: 1,024 tokens of 3,072 features in 4 bytes, batch 4; a GPT of 64 layers over 8 GPUs a
    node.
    """
    nodes = len(bytes_per_s)
    width = nodes // pp
    weights = (3072 * 50256 + 16 * 3072**2 * 64 / pp) / 8 * 4
    rate = np.where(np.eye(nodes, dtype=bool), np.inf, bytes_per_s)
    terms = [Term(axis=0, cost=2e3 * ACTIVATION_BYTES / rate)]
    if width > 1:
        ring = 2e3 * (width - 1) / width * weights / rate
        terms.append(Term(axis=1, cost=ring, cyclic=True, reduce="max"))
    return MappingProblem(shape=(pp, width), terms=tuple(terms))


def generated(nodes: int, seed: int = 0) -> np.ndarray:
    """Bytes per second between nodes: classes by distance in a tree of 4, 16 and 64 nodes, noise, slow links."""
    random = np.random.default_rng(seed)
    n = np.arange(nodes)
    level = sum((n[:, None] // size != n[None] // size).astype(int) for size in (4, 16, 64))
    rate = np.array(CLASSES_GB_PER_S)[level] * (1 + 0.05 * random.standard_normal((nodes, nodes)))
    slow = random.random((nodes, nodes)) < 0.02
    names = random.permutation(nodes)
    return np.where(slow, rate / 4, rate)[np.ix_(names, names)] * 1e9


def case(problem: MappingProblem) -> dict[str, Any]:
    """Value, bound and CPU seconds of one problem, and the value of the order as given."""
    started = time.process_time()
    found = solve(problem)
    assert found.point is not None
    return {
        "cost_ms": found.value,
        "bound_ms": found.bound,
        "cpu_s": time.process_time() - started,
        "order": found.point.tolist(),
        "given_ms": float(evaluate(problem, np.arange(problem.items)[None])[0]),
    }


def snapshots() -> list[dict[str, Any]]:
    """The six published cases; empty when the snapshots are not here."""
    rows = []
    for snapshot in (0, 1):
        path = SNAPSHOTS / f"mpigraph_16_nodes_t{snapshot}.json"
        if not path.exists():
            print(f"skipped: no {path.name} beside the repository", file=sys.stderr)
            continue
        rate = np.array(json.loads(path.read_text())["0"]["bandwidth"]) * 1e6
        for pp in (2, 4, 8):
            rows.append({"snapshot": snapshot, "pp": pp, **case(grid_problem(rate, pp))})
    return rows


def main() -> int:
    """Print the cases as JSON or as tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the snapshots' cases as JSON")
    options = parser.parse_args()
    solve(grid_problem(generated(4), 2), Work(100))  # imports and first calls are not the solver's time
    rows = snapshots()
    if options.json:
        keys = ("snapshot", "pp", "cost_ms", "bound_ms", "cpu_s", "order")
        print(json.dumps([{key: row[key] for key in keys} for row in rows], indent=1))
        return 0
    print("| snapshot | pp | as given, ms | found, ms | bound, ms | gap | CPU s |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['snapshot']} | {row['pp']} | {_figures(row)} |")
    print("\n| nodes | pp | as given, ms | found, ms | bound, ms | gap | CPU s |\n|---|---|---|---|---|---|---|")
    for nodes in (16, 32, 64, 128, 256, 512):
        print(f"| {nodes} | 8 | {_figures(case(grid_problem(generated(nodes), 8)))} |")
    return 0


def _figures(row: dict[str, Any]) -> str:
    gap = 1 - row["bound_ms"] / row["cost_ms"]
    return (
        f"{row['given_ms']:.3f} | {row['cost_ms']:.3f} | {row['bound_ms']:.3f} | {100 * gap:.2f} % | {row['cpu_s']:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())

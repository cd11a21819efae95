"""Fit and judge the constants of the collective model against measured collectives.

    python -m benchmarks.fit_collectives FILE.csv [--json]      judge the constants that ship with the tool
    python -m benchmarks.fit_collectives FILE.csv --write       fit them again and write coefficients and table

FILE.csv has one measurement per row: gpu, num_gpus, nodes, op, kernel_or_algo, size_bytes, time_us, busbw_GBps,
tokens, hidden, topk, source and more.

Split. Constants inside a domain are fitted on rows of AIConfigurator's tables whose size (or token count) has an even
binary logarithm (V100 and send_recv: of APEX, the only source), and judged on the other sizes and on every row of every
other source (APEX, ml-engineering, nccl-tests issues, DeepEP). Constants of NICs are fitted on every other size of one
multi-node curve per kind of NIC, and judged on the other sizes and on every other multi-node source. MI300X has two
points, both used. One set per device and algorithm, whatever the library version.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.collective_rows import HDR200_X4, Row, read_rows, unique
from shardwright.topologies import Collectives, cluster, parse_topology
from shardwright.topologies.algorithms import SWITCH_RANKS, TWO_SHOT_BYTES, one_shot_bytes, terms
from shardwright.topologies.coefficients import (
    CollectiveCoefficients,
    NetworkCoefficients,
    OpCoefficients,
    default_coefficients,
)
from shardwright.topologies.document import NicKind

ROOT = Path(__file__).resolve().parent.parent
COEFFICIENTS = ROOT / "topologies" / "coefficients.json"
Array = np.ndarray[Any, np.dtype[np.float64]]
TABLE = ROOT / "benchmarks" / "results" / "collectives.md"

IN_DOMAIN = (
    "all_reduce",
    "all_reduce_switch",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "send_recv",
    "one_shot",
    "two_shot",
    "moe_dispatch",
    "moe_combine",
    "moe_dispatch_low_latency",
    "moe_combine_low_latency",
)
LIKE = {
    "V100-SXM2-16GB": "A100-SXM4-80GB",
    "V100-SXM2-32GB": "A100-SXM4-80GB",
    "A100-SXM4-40GB": "A100-SXM4-80GB",
    "A800-SXM4-80GB": "A100-SXM4-80GB",
    "H800-SXM-80GB": "H100-SXM5-80GB",
    "H20-SXM-96GB": "H100-SXM5-80GB",
    "H100-SXM5-96GB-500W": "H100-SXM5-80GB",
    "H100-NVL-94GB": "H100-SXM5-80GB",
    "H200-NVL-141GB": "H200-SXM-141GB",
    "GH200-96GB": "H100-SXM5-80GB",
    "GH200-144GB": "H200-SXM-141GB",
}
"""Device whose constants, relative to link and memory rates, stand in for one without measurements."""

FABRICS = {
    "switch": "H100-SXM5-80GB",
    "mesh": "A100-SXM4-80GB",
    "pcie": "RTX-PRO-6000-Server",
    "torus": "A100-SXM4-80GB",
    "none": "H100-SXM5-80GB",
}


class Topologies:
    """Collective times on the clusters that rows name, made once."""

    def __init__(self, coefficients: CollectiveCoefficients) -> None:
        self.coefficients = coefficients
        self._made: dict[str, Collectives] = {}

    def __getitem__(self, name: str) -> Collectives:
        if name not in self._made:
            topology = parse_topology(HDR200_X4) if name == "hdr200-x4" else cluster(name)
            self._made[name] = Collectives(topology, self.coefficients)
        return self._made[name]

    def predicted(self, rows: list[Row]) -> Array:
        """Seconds of every row."""
        times = np.zeros(len(rows))
        index = {id(row): i for i, row in enumerate(rows)}
        for (name, op), part in unique(rows, "cluster", "op"):
            shape = np.array([(row.size_bytes, row.ranks, row.domains) for row in part]).T
            times[[index[id(row)] for row in part]] = self[name].uniform_seconds(op, *shape)
        return times


def non_negative(matrix: Array, target: Array, weights: Array) -> Array:
    """Non-negative least squares by coordinate descent, columns scaled to their largest entry."""
    scale = np.maximum(np.abs(matrix).max(0), 1e-300)
    scaled = matrix / scale * np.sqrt(weights)[:, None]
    gram, right = scaled.T @ scaled, scaled.T @ (target * np.sqrt(weights))
    point = np.zeros(matrix.shape[1])
    for _ in range(20000):
        before = point.copy()
        for k in range(len(point)):
            if gram[k, k] > 0:
                point[k] = max(0.0, point[k] + (right[k] - gram[k] @ point) / gram[k, k])
        if np.abs(point - before).max() <= 1e-10 * max(np.abs(point).max(), 1e-300):
            break
    return np.asarray(point / scale)


def relative_fit(matrix: Array, seconds: Array, least: Array) -> Array:
    """Constants, none below `least`, that make the mean absolute relative error small.

    Reweighted least squares of relative errors.
    """
    relative = matrix / seconds[:, None]
    target = 1 - relative @ least
    weights = np.ones(len(seconds))
    point = least
    for _ in range(20):
        point = least + non_negative(relative, target, weights)
        weights = 1 / np.maximum(np.abs(relative @ point - 1), 0.02)
    return point


def part_of(algorithm: str, rows: list[Row]) -> list[Row]:
    """The rows that show an algorithm: what the library is known or seen to choose for a size and group."""
    if algorithm == "all_reduce":
        return [r for r in rows if r.op == "all_reduce" and not switch_adds(r)]
    if algorithm == "all_reduce_switch":
        return [r for r in rows if r.op == "all_reduce" and switch_adds(r)]
    if algorithm in ("one_shot", "two_shot"):
        custom = [r for r in rows if r.op == "custom_all_reduce" and r.size_bytes <= TWO_SHOT_BYTES]
        custom = [r for r in custom if r.ranks == 2 or r.device not in ("L40S", "RTX-PRO-6000-Server")]
        return [
            r for r in custom if (r.size_bytes <= one_shot_bytes(np.array(float(r.ranks)))) == (algorithm == "one_shot")
        ]
    return [r for r in rows if r.op == algorithm]


def switch_adds(row: Row) -> bool:
    """Whether NCCL adds in the switch for large buffers of the row's group."""
    fabric, _ = cluster(row.cluster).domain_fabric(0)
    return row.ranks >= SWITCH_RANKS and bool(getattr(fabric, "in_network_reduction", False))


def fitted_algorithm(algorithm: str, rows: list[Row], times: Topologies) -> OpCoefficients:
    """Constants of one algorithm on one device from rows in one domain."""
    size = np.array([row.size_bytes for row in rows])
    links = times[rows[0].cluster].uniform_links(rows[0].op, [row.ranks for row in rows], 1)
    launch, hops, transfer, own, root = terms(algorithm, size, links)
    spans = np.unique(links.span)
    if links.span.any() or algorithm in ("one_shot", "two_shot") or not np.ptp(links.ranks):
        own = 0 * own  # beside these transfers a copy cannot be told from the transfer itself
    columns = [launch, hops if np.ptp(hops) else 0 * hops, own, root, *(transfer * (links.span == s) for s in spans)]
    least = np.array([0.0] * 4 + [1.0] * len(spans))  # no link is faster than its rate
    point = relative_fit(np.stack(columns, 1), np.array([row.seconds for row in rows]), least)
    efficiency = dict(zip(spans.tolist(), (1 / point[4:]).tolist(), strict=True))
    levels = [efficiency.get(s, min(efficiency.values())) for s in range(3)] if links.span.any() else [efficiency[0]]
    return OpCoefficients(
        floor_s=rounded(point[0]),
        step_s=rounded(point[1]),
        copy_passes=rounded(point[2]),
        ramp=rounded(point[3]),
        efficiency=tuple(rounded(each) for each in levels),
    )


def rounded(value: float) -> float:
    """Four significant digits: more than the data carry."""
    return float(f"{value:.4g}")


def fitted_devices(rows: list[Row], times: Topologies) -> dict[str, dict[str, OpCoefficients]]:
    """Constants of every device and algorithm that at least six rows of the fit part show."""
    found: dict[str, dict[str, OpCoefficients]] = defaultdict(dict)
    for (device,), mine in unique([row for row in rows if row.fit and row.domains == 1], "device"):
        for algorithm in IN_DOMAIN:
            part = part_of(algorithm, mine)
            if len(part) >= 6:
                found[device][algorithm] = fitted_algorithm(algorithm, part, times)
    return dict(found)


NETWORKS: dict[NicKind, tuple[str, ...]] = {
    "ethernet": ("V100-PCIe-16GB",),
    "efa": ("B200-SXM-180GB",),
    "ib": ("A100-SXM4-80GB",),
}
"""Device of the multi-node rows that the constants of each kind of NIC are fitted on."""

NETWORKS_LIKE: dict[NicKind, NicKind] = {"roce": "ib", "slingshot": "ib", "omnipath": "ib"}


def fitted_network(rows: list[Row], start: CollectiveCoefficients, kind: NicKind) -> NetworkCoefficients:
    """Constants of a kind of NIC by pattern search on the mean relative error, each error counted as at most 1."""
    point = {"step_s": 2e-5, "message_s": 1e-6, "efficiency": 0.9, "ramp": 1e-4}
    measured = np.array([row.seconds for row in rows])

    def error(values: dict[str, float]) -> float:
        networks = start.networks | {kind: msgspec.convert(values, NetworkCoefficients)}
        trial = Topologies(msgspec.structs.replace(start, networks=networks))
        return float(np.minimum(np.abs(trial.predicted(rows) / measured - 1), 1).mean())

    best, stride = error(point), 2.0
    while stride > 1.01:
        improved = False
        for name in point:
            for factor in (stride, 1 / stride):
                trial = point | {name: point[name] * factor}
                trial["efficiency"] = min(trial["efficiency"], 1.0)
                value = error(trial)
                if value < best - 1e-6:
                    best, point, improved = value, trial, True
        stride = stride if improved else math.sqrt(stride)
    return NetworkCoefficients(**{name: rounded(value) for name, value in point.items()})


def fitted(rows: list[Row]) -> CollectiveCoefficients:
    """All constants, inside domains first, then of NICs with those held."""
    start = default_coefficients()
    devices = fitted_devices(rows, Topologies(start))
    devices["MI300X"] = from_points([row for row in rows if row.device == "MI300X"], devices[FABRICS["mesh"]])
    found = CollectiveCoefficients(
        devices=devices,
        networks=dict(start.networks),
        networks_like=NETWORKS_LIKE,
        like=LIKE,
        fabrics=FABRICS,
        provenance=provenance(),
    )
    for kind, names in NETWORKS.items():
        part = [row for row in rows if row.fit and row.domains > 1 and row.device in names and "moe" not in row.op]
        found.networks[kind] = fitted_network(part, found, kind)
    return found


def from_points(rows: list[Row], other: dict[str, OpCoefficients]) -> dict[str, OpCoefficients]:
    """Constants of a device with single large measurements only: another's, the efficiency scaled to meet them."""
    ring = other["all_reduce"]
    times = Topologies(default_coefficients())
    shares = []
    for row in rows:
        links = times[row.cluster].uniform_links("all_reduce", row.ranks, 1)
        _, _, transfer, own, _ = terms("all_reduce", np.array([row.size_bytes]), links)
        shares.append(float(transfer[0]) / (row.seconds - ring.copy_passes * float(own[0])))
    scale = sum(shares) / len(shares) / ring.efficiency[0]
    return {
        name: msgspec.structs.replace(fit, efficiency=tuple(rounded(min(e * scale, 1)) for e in fit.efficiency))
        for name, fit in other.items()
        if name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    }


def provenance() -> dict[str, str]:
    """Where the constants come from."""
    return {
        "command": "python -m benchmarks.fit_collectives collectives.csv --write",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "source": (
            "inside a domain: AIConfigurator nccl_perf, custom_allreduce_perf and wideep_deepep tables "
            "(github.com/ai-dynamo/aiconfigurator, Apache-2.0), sizes with an even binary logarithm; "
            "ethernet: APEX profile/comm (MIT); efa and ib: ml-engineering all_reduce_bench (CC BY-SA 4.0); "
            "MI300X: two points of ml-engineering; roce, slingshot and omnipath: as ib, and message_s of ib and efa "
            "1 us (assumptions)"
        ),
    }


def judged(rows: list[Row], predicted: Array) -> dict[str, list[dict[str, Any]]]:
    """Errors by operation and device, and by source; `unseen` ones are of rows nothing was fitted on."""
    errors = {id(row): time / row.seconds - 1 for row, time in zip(rows, predicted.tolist(), strict=True)}
    tables: dict[str, list[dict[str, Any]]] = {"by_op": [], "by_source": []}
    for (op, device), group in unique(rows, "op", "device"):
        for where, part in (
            ("one domain", [row for row in group if row.domains == 1]),
            ("several nodes", [row for row in group if row.domains > 1]),
        ):
            if part:
                tables["by_op"].append({"op": op, "device": device, "where": where} | statistics(part, errors))
    for (source,), part in unique(rows, "source"):
        tables["by_source"].append({"source": source} | statistics(part, errors))
    tables["total"] = [statistics(rows, errors)]
    return tables


def statistics(rows: list[Row], errors: dict[int, float]) -> dict[str, Any]:
    """Rows, and median and 90th percentile of the absolute relative error on the rows kept out of the fit."""
    unseen = [abs(errors[id(row)]) for row in rows if not row.fit]
    signed = [errors[id(row)] for row in rows if not row.fit]
    if not unseen:
        return {"rows": len(rows), "unseen": 0, "median_ape": None, "p90_ape": None, "bias": None}
    return {
        "rows": len(rows),
        "unseen": len(unseen),
        "median_ape": round(float(np.median(unseen)), 4),
        "p90_ape": round(float(np.quantile(unseen, 0.9)), 4),
        "bias": round(float(np.median(signed)), 4),
    }


def markdown(tables: dict[str, list[dict[str, Any]]], skipped: dict[str, int], command: str) -> str:
    """The committed table."""
    lines = [
        "# Collective times, predicted against measured",
        "",
        f"{datetime.datetime.now(tz=datetime.UTC).date().isoformat()}, 2-core x86-64 container, "
        f"Python {platform.python_version()}, `{command}`",
        "",
        *(__doc__ or "").split("Split. ")[1].strip().splitlines(),
        "",
        "Errors are of rows that no constant was fitted on; bias is the median signed error.",
    ]
    for name, title in (("total", "All rows"), ("by_op", "By operation and device"), ("by_source", "By source")):
        keys = list(tables[name][0])
        lines += ["", f"## {title}", "", f"| {' | '.join(keys)} |", "|" + " --- |" * len(keys)]
        lines += [f"| {' | '.join(cell(row[key], key) for key in keys)} |" for row in tables[name]]
    lines += ["", "## Rows left out", "", "| rows | why |", "| --- | --- |"]
    lines += [f"| {count} | {reason} |" for reason, count in sorted(skipped.items())]
    return "\n".join(lines) + "\n"


def cell(value: Any, key: str) -> str:
    """A table cell; errors as percentages."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if key in ("median_ape", "p90_ape", "bias") else str(value)


def main(arguments: list[str] | None = None) -> int:
    """Judge, or fit and judge, on one file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_collectives")
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")
    parser.add_argument("--write", action="store_true", help="fit, then write coefficients and table")
    given = parser.parse_args(arguments)
    rows, skipped = read_rows(given.file)
    coefficients = fitted(rows) if given.write else default_coefficients()
    tables = judged(rows, Topologies(coefficients).predicted(rows))
    flags = " --write" if given.write else ""
    text = markdown(tables, dict(skipped), f"python -m benchmarks.fit_collectives {given.file.name}{flags}")
    if given.write:
        document = msgspec.json.format(msgspec.json.encode(coefficients), indent=1).decode() + "\n"
        COEFFICIENTS.write_text(document, encoding="utf-8")
        TABLE.write_text(text, encoding="utf-8")
    print(json.dumps(tables | {"skipped": dict(skipped)}, indent=1) if given.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

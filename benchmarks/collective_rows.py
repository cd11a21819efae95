"""Measured collectives as rows of the collective model: which topology, which operation, which group shape."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardwright.topologies.document import SCHEMA

GPUS = {
    "A100-SXM4-40GB": ("A100-SXM4-40GB", "dgx-a100-40gb"),
    "A100-SXM4-80GB": ("A100-SXM4-80GB", "dgx-a100"),
    "H100": ("H100-SXM5-80GB", "hgx-h100"),
    "H100-SXM": ("H100-SXM5-80GB", "dgx-h100"),
    "H100-SXM-80GB": ("H100-SXM5-80GB", "dgx-h100"),
    "H200-SXM": ("H200-SXM-141GB", "dgx-h200"),
    "H200-SXM-141GB": ("H200-SXM-141GB", "dgx-h200"),
    "H800": ("H800-SXM-80GB", "hgx-h800"),
    "B200": ("B200-SXM-180GB", "hgx-b200"),
    "B300": ("B300-SXM-288GB", "hgx-b300"),
    "GB200": ("GB200-NVL72", "gb200-nvl72"),
    "GB300": ("GB300-NVL72", "gb300-nvl72"),
    "L40S": ("L40S", "l40s-box"),
    "RTX PRO 6000 Blackwell Server": ("RTX-PRO-6000-Server", "rtx-pro-6000-box"),
    "V100-PCIE-16GB": ("V100-PCIe-16GB", "v100-pcie-box"),
    "MI300X": ("MI300X", "mi300x"),
    "DGX Spark GB10": ("GB10", "dgx-spark"),
    "A100/H100? (not stated here)": ("A100-SXM4-80GB", "hdr200-x4"),
}
"""Device of the catalog, and the cluster one of its domains is taken from."""

HDR200_X4: dict[str, Any] = {
    "schema": SCHEMA,
    "name": "hdr200-x4",
    "nodes": [
        {
            "name": "node",
            "count": 4,
            "accelerator": "A100-SXM4-80GB",
            "devices": 8,
            "fabric": {"kind": "switch", "bandwidth_bytes_per_s": 300e9, "latency_s": 5e-7},
            "nics": {"count": 4, "bandwidth_bytes_per_s": 25e9, "latency_s": 1e-6, "kind": "ib"},
        }
    ],
    "networks": [{"kind": "rail", "name": "fabric", "pod_nodes": 32, "latency_s": 5e-7, "spine_latency_s": 1e-6}],
}
"""Four nodes with four 200 Gb/s InfiniBand NICs each, as two of the sources describe theirs."""

_OPS = {"alltoall": "all_to_all", "sendrecv": "send_recv", "ep_dispatch": "moe_dispatch", "ep_combine": "moe_combine"}
_NETWORK_CURVES = ("B200", "V100-PCIE-16GB", "A100/H100? (not stated here)")
_BUSBW = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: `ranks` × `domains` devices of a cluster, bytes as nccl-tests counts them, and seconds.

    `fit` marks the part that constants are fitted on.
    """

    device: str
    cluster: str
    op: str
    ranks: int
    domains: int
    size_bytes: float
    seconds: float
    source: str
    kernel: str
    fit: bool


def read_rows(path: Path) -> tuple[list[Row], Counter[str]]:
    """The rows of a file that the model speaks of, and why the others are left out."""
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    with path.open(newline="", encoding="utf-8") as stream:
        for record in csv.DictReader(stream):
            row = _row(record)
            if isinstance(row, Row):
                rows.append(row)
            else:
                skipped[row] += 1
    return rows, skipped


def unique(rows: list[Row], *fields: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Rows grouped by fields, in sorted order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, field) for field in fields), []).append(row)
    yield from sorted(groups.items())


def _row(record: dict[str, str]) -> Row | str:
    if record["gpu"] not in GPUS:
        return f"accelerator not stated exactly: {record['gpu']}"
    device, cluster = GPUS[record["gpu"]]
    kernel = record["kernel_or_algo"]
    op = _OPS.get(record["op"], record["op"])
    if kernel.endswith("_eager"):
        return "kernel launched from the host each time: its time is the host's"
    if "NVLS_ENABLE=0" in kernel or (kernel == "Ring" and op == "all_reduce"):
        return "algorithm forced, not the library's choice"
    n, nodes = int(record["num_gpus"]), int(record["nodes"] or 1)
    if op.startswith("moe_"):
        return _moe_row(record, device, cluster, op)
    if "custom" in record["source"].lower() or kernel == "TRTLLM":
        op = "custom_all_reduce"
    if op not in (*_BUSBW, "send_recv", "custom_all_reduce"):
        return f"not a modelled operation: {record['op']}"
    size = float(record["size_bytes"] or 0)
    if size <= 0:
        return "no size, or zero bytes"
    seconds = _seconds(record, op, size, n)
    if seconds is None:
        return "neither time nor bandwidth"
    if nodes > 1:
        cluster = _multi_node(record, cluster, nodes)
    domains = nodes if record["gpu"] not in ("GB200", "GB300") else 1
    if n % domains:
        return "ranks are not spread evenly over the nodes"
    even = round(math.log2(size)) % 2 == 0
    curve = (nodes > 1 and record["gpu"] in _NETWORK_CURVES) or op == "send_recv" or record["gpu"].startswith("V100")
    fit = (even and (curve or "AIConfigurator" in record["source"])) or record["gpu"] == "MI300X"
    return Row(device, cluster, op, n // domains, domains, size, seconds, record["source"], kernel, fit)


def _seconds(record: dict[str, str], op: str, size: float, n: int) -> float | None:
    if record["time_us"]:
        return float(record["time_us"]) * 1e-6
    if record["busbw_GBps"] and op in _BUSBW and float(record["busbw_GBps"]) > 1:
        return _BUSBW[op] * (n - 1) / n * size / (float(record["busbw_GBps"]) * 1e9)
    return None


def _multi_node(record: dict[str, str], cluster: str, nodes: int) -> str:
    if "EFA" in record["fabric"]:
        return f"{'aws-p6-b200' if record['gpu'].startswith('B200') else 'aws-p5en'}:{nodes}"
    if "HDR200" in record["fabric"]:
        return "hdr200-x4"
    return cluster if cluster == "hdr200-x4" else f"{cluster}:{nodes}"


def _moe_row(record: dict[str, str], device: str, cluster: str, op: str) -> Row | str:
    """DeepEP and its like: bytes are what a rank sends to experts elsewhere and at home.

    The normal kernels send a token once to every rank that holds one of its experts, the low-latency ones once to
    every expert. Dispatch is 8-bit with one 4-byte scale for every 128 values, combine 16-bit.
    """
    if not record["time_us"]:
        return "dispatch or combine without a time"
    n, nodes = int(record["num_gpus"]), int(record["nodes"] or 1)
    low_latency = "low-latency" in record["kernel_or_algo"] or " LL" in record["kernel_or_algo"]
    topk, hidden, tokens = int(record["topk"]), int(record["hidden"]), int(record["tokens"])
    copies = topk if low_latency else n * (1 - (1 - 1 / n) ** topk)
    size = tokens * copies * hidden * (1 + 4 / 128 if op == "moe_dispatch" else 2)
    ranks, domains = n // nodes, nodes
    if "pure-RDMA" in record["kernel_or_algo"]:
        ranks, domains = 1, n
    if record["gpu"] in ("GB200", "GB300"):
        ranks, domains = n, 1
    if domains > 1:
        cluster = {"B200": "aws-p6-b200:2", "H100": "aws-p5:2"}.get(record["gpu"], f"{cluster}:32")
    even = math.floor(math.log2(tokens)) % 2 == 0
    tabled = "AIConfigurator" in record["source"]
    return Row(
        device,
        cluster,
        op + ("_low_latency" if low_latency else ""),
        ranks,
        domains,
        size,
        float(record["time_us"]) * 1e-6,
        record["source"],
        record["kernel_or_algo"],
        even and tabled,
    )

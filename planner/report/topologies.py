"""Views of accelerators, clusters and one topology."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwright.topologies import Collectives, Topology, accelerator, cluster, list_accelerators, list_clusters

from .text import console, duration, gigabytes, si, table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table

_SAMPLE_BYTES = (1_000_000, 100_000_000)


def accelerator_rows() -> list[dict[str, Any]]:
    """One record an accelerator, SI units."""
    return [
        {
            "name": entry.name,
            "vendor": entry.vendor,
            "memory_bytes": entry.memory_bytes,
            "memory_bytes_per_s": entry.memory_bytes_per_s,
            "peak_flops": dict(sorted(entry.peak_flops.items())),
        }
        for entry in map(accelerator, list_accelerators())
    ]


def cluster_rows() -> list[dict[str, Any]]:
    """One record a cluster of the catalog, at its default size."""
    rows = []
    for name in list_clusters():
        topology = cluster(name)
        rows.append(
            {
                "name": name,
                "devices": topology.n_devices,
                "nodes": topology.n_nodes,
                "accelerators": sorted({entry.name for entry in topology.accelerators}),
            }
        )
    return rows


def listing(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Either listing as a table."""
    if rows and "peak_flops" in rows[0]:
        return table(
            title,
            ("name", "memory", "bandwidth", "bf16", "fp8"),
            (
                (
                    row["name"],
                    gigabytes(row["memory_bytes"]),
                    si(row["memory_bytes_per_s"], "B/s"),
                    _peak(row, "bf16"),
                    _peak(row, "fp8"),
                )
                for row in rows
            ),
        )
    return table(
        title,
        ("name", "devices", "nodes", "source"),
        ((row["name"], str(row["devices"]), str(row["nodes"]), ", ".join(row["accelerators"])) for row in rows),
    )


def _peak(row: dict[str, Any], dtype: str) -> str:
    peak = row["peak_flops"].get(dtype)
    return si(peak, "FLOP/s") if peak else "-"


def link_classes(topology: Topology) -> list[tuple[str, NDArray[np.float64]]]:
    """Point-to-point bandwidths by class: inside one scale-up domain, and between nodes."""
    classes = []
    first = np.flatnonzero(topology.device_domain == topology.device_domain[0])[:64]
    if len(first) > 1:
        pairs = first[:, None] != first[None, :]
        inside = np.asarray(topology.bandwidth_bytes_per_s(first[:, None], first[None, :]))
        classes.append(("inside a domain, per device", inside[pairs]))
    if topology.n_domains > 1 and topology.n_nodes > 1:
        between = np.asarray(topology.node_bandwidth_bytes_per_s, dtype=float)
        classes.append(("between nodes, per node", between[~np.eye(len(between), dtype=bool)]))
    return classes


def print_topology(topology: Topology) -> None:
    """The view of one topology on the terminal."""
    out = console()
    kinds = np.bincount(topology.device_accelerator, minlength=len(topology.accelerators))
    devices = ", ".join(f"{n} × {a.name}" for n, a in zip(kinds, topology.accelerators, strict=True))
    out.print(f"{topology.name}: {devices} in {topology.n_nodes} nodes, {topology.n_domains} domains", markup=False)
    out.print(
        table(
            "Links, one direction",
            ("class", "slowest", "median", "fastest"),
            (
                (name, *(si(float(value), "B/s") for value in (bw.min(), np.median(bw), bw.max())))
                for name, bw in link_classes(topology)
            ),
        )
    )
    if topology.n_devices > 1:
        print_collectives(topology)


def print_collectives(topology: Topology) -> None:
    """What collectives over one domain and over every device take."""
    collectives = Collectives(topology)
    domain = np.flatnonzero(topology.device_domain == topology.device_domain[0])
    groups = {f"first domain ({len(domain)})": domain, f"all ({topology.n_devices})": np.arange(topology.n_devices)}
    console().print(
        table(
            "Collectives",
            ("op", "devices", *(si(size, "B") for size in _SAMPLE_BYTES)),
            (
                (op, label, *(duration(collectives.seconds(op, size, group[None, :])) for size in _SAMPLE_BYTES))
                for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
                for label, group in groups.items()
                if len(group) > 1
            ),
        )
    )

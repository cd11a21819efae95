"""The cluster of a row: accelerator from its name, nodes and scale-up domains, network from the words about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from shardwright.topologies import Accelerator, Topology, TopologyError, accelerator, parse_topology

from .cells import Row, UnusableError, count, required, text

GBIT = 1e9 / 8
_LATENCY_S = {"ib": 3e-6, "roce": 4e-6, "efa": 8e-6, "ethernet": 15e-6, "slingshot": 4e-6}
_REFERENCE_GBIT = {"Volta": 50, "Turing": 12.5, "Ampere": 200, "Ada": 100, "Hopper": 400, "Blackwell": 400}
_REFERENCE_GBIT |= {
    "Blackwell Ultra": 800,
    "Rubin": 1600,
    "CDNA2": 100,
    "CDNA3": 400,
    "CDNA4": 400,
    "TPU": 25,
    "Trainium": 50,
}
_NVL_NODES = 18
# NICs of a node and Gb/s of each where a source's paper says so and its rows do not (vTrain: four HDR ports a node).
_SOURCES_NICS = {"vTrain": (4, 200.0)}


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a topology is built from; `node_gbit` is the network of one node, all its NICs together."""

    accelerator: str
    nodes: int
    devices: int
    domain_nodes: int
    nics: int
    node_gbit: float
    kind: str
    half_chip: bool = False
    fabric_gbit: float | None = None


def cluster_of(row: Row) -> tuple[Cluster, tuple[str, ...]]:
    """The cluster a row was measured on, and the assumptions made; raises UnusableError when it is unknown or mixed."""
    name = text(row, "gpu")
    if not name:
        raise UnusableError("gpu not given")
    if re.search(r"\+|mixed| and ", name.split("(")[0]):
        raise UnusableError("accelerators of several kinds")
    device = accelerator_named(name, text(row, "source") + " " + text(row, "notes"))
    total = required(row, "num_gpus")
    nodes = count(row, "nodes")
    rack = "NVL72" in device.name
    assumptions: list[str] = []
    if nodes is None:
        nodes = max(1, -(-total // (4 if rack else 8)))
    if device.architecture == "TPU":
        nodes = min(nodes, total)
    if total % nodes:
        raise UnusableError("num_gpus is not a multiple of nodes")
    words = text(row, "interconnect")
    node_gbit, kind = network_of(words)
    nics, stated = next(
        (each for name, each in _SOURCES_NICS.items() if text(row, "source").startswith(name)), (0, 0.0)
    )
    if node_gbit is None and nics:
        node_gbit = nics * stated
        if nodes > 1:
            assumptions.append(
                f"network not stated: {nics} × {stated:g} Gb/s for each node, as the source's paper says"
            )
    elif node_gbit is None:
        nics_gbit = _REFERENCE_GBIT.get(device.architecture, 100)
        node_gbit = nics_gbit * total / nodes
        if nodes > 1 and not rack:
            assumptions.append(f"network not stated: {nics_gbit:g} Gb/s for each {device.architecture} device")
    elif node_gbit < 0:
        node_gbit = -node_gbit * total / nodes
    half = "neuroncore" in name.lower()
    domain_nodes = _domain_nodes(nodes, total // nodes) if rack else 1
    inside = re.search(r"(\d+(?:\.\d+)?) ?Gb/s intra\b", words)
    cluster = Cluster(
        accelerator=device.name,
        nodes=nodes,
        devices=total // nodes,
        domain_nodes=domain_nodes,
        nics=nics or total // nodes,
        node_gbit=node_gbit,
        kind=kind,
        half_chip=half,
        fabric_gbit=float(inside.group(1)) if inside else None,
    )
    return cluster, tuple(assumptions)


def accelerator_named(name: str, hints: str = "") -> Accelerator:
    """The catalog's accelerator behind a table's words for it; raises UnusableError when there is none."""
    plain = re.sub(r"\(.*?\)", " ", name).strip()
    plain = re.sub(r"\b(nvidia|amd|instinct|google|intel|aws|tensor core|gpu|neuroncore.*)\b", " ", plain, flags=re.I)
    plain = " ".join(plain.replace("_", " ").split())
    if re.fullmatch(r"h100", plain, re.I) and re.search(r"96 ?GB|HBM2e|torchtitan", f"{name} {hints}", re.I):
        plain = "h100-96gb"
    if re.search(r"mi250x", plain, re.I):
        plain = "mi250x-gcd"
    tokens = plain.split()
    for candidate in (plain, plain.replace(" ", ""), *(" ".join(tokens[:n]) for n in range(len(tokens), 0, -1))):
        try:
            return accelerator(candidate)
        except TopologyError:
            continue
    raise UnusableError("accelerator unknown to the catalog")


def network_of(words: str) -> tuple[float | None, str]:
    """Gb/s of one node's compute network, and its kind; None when the words do not say, negative when per device.

    Gb is read as bits and GB as bytes, so the scale-up fabric's GB/s are passed over, as are NICs for storage and
    management.
    """
    kind = _kind(words.lower())
    compute = re.search(r"[Cc]ompute: ([^,;|]*)", words)
    part = compute.group(1) if compute else re.sub(r"([Ss]torage|[Mm]anagement)[^:,]*: [^,;|]*", "", words)
    part = part.split("| net:")[-1]
    modelled = re.search(r"(\d+(?:\.\d+)?) ?Gb/s inter\b", part)
    if modelled:
        return float(modelled.group(1)), "ethernet"
    each = re.search(r"(\d+(?:\.\d+)?) ?Gb(?:/s|ps)? ?(?:/|per )GPU", part)
    if each:
        return -float(each.group(1)), kind
    for many in re.finditer(r"(\d+) ?x ?((?:[\w-]+ )*?)[A-Za-z-]*?(\d{2,4}) ?G(?:b|bit)(?![A-Za-z]*yte)", part):
        if "nvlink" not in many.group(2).lower():
            return float(many.group(1)) * float(many.group(3)), kind
    lanes = re.search(r"(\d+) ?x ?(hdr|ndr|edr)", part.lower())
    if lanes:
        return float(lanes.group(1)) * {"hdr": 200, "ndr": 400, "edr": 100}[lanes.group(2)], kind
    whole = re.search(r"(\d{3,4}) ?Gbps(?! ?x)", part)
    if whole and (float(whole.group(1)) > 400 or re.search(r"/ ?node|per node", part)):
        return float(whole.group(1)), kind
    return None, kind


def _kind(lowered: str) -> str:
    for pattern, name in ((r"efa", "efa"), (r"slingshot", "slingshot"), (r"roce", "roce")):
        if re.search(pattern, lowered):
            return name
    wired = "ethernet" in lowered and not re.search(r"infiniband|\bib\b|ndr|hdr|omni", lowered)
    return "ethernet" if wired else "ib"


def _domain_nodes(nodes: int, devices: int) -> int:
    """Nodes that share an NVLink rack: the largest equal share of the nodes that a rack of 72 devices holds."""
    limit = min(nodes, max(1, _NVL_NODES * 4 // devices))
    return max(size for size in range(1, limit + 1) if nodes % size == 0)


@lru_cache(maxsize=512)
def topology_of(cluster: Cluster) -> Topology:
    """The cluster as a topology: its scale-up fabric from the accelerator, one rail network between the nodes."""
    device = accelerator(cluster.accelerator)
    if cluster.half_chip:
        device = _half(device)
    size = cluster.devices * cluster.domain_nodes
    group: dict[str, Any] = {
        "name": "node",
        "count": cluster.nodes,
        "accelerator": device.name,
        "devices": cluster.devices,
        "domain_nodes": cluster.domain_nodes,
        "network": "network",
    }
    if size > 1:
        stated = cluster.fabric_gbit and cluster.fabric_gbit * GBIT
        group["fabric"] = _switch(stated, 5e-6) if stated else _fabric(device, size)
    group["nics"] = {
        "count": cluster.nics,
        "bandwidth_bytes_per_s": cluster.node_gbit * GBIT / cluster.nics,
        "latency_s": _LATENCY_S[cluster.kind],
        "kind": cluster.kind,
    }
    document: dict[str, Any] = {
        "schema": "shardwright.topology/1",
        "name": f"{device.name} x {cluster.nodes * cluster.devices}",
        "nodes": [group],
        "networks": [{"kind": "rail", "name": "network", "pod_nodes": max(32, cluster.nodes), "latency_s": 1e-6}],
    }
    if cluster.half_chip:
        document["accelerators"] = [msgspec.to_builtins(device)]
    try:
        return parse_topology(document)
    except TopologyError as error:
        raise UnusableError(f"cluster cannot be built: {error}") from None


def _fabric(device: Accelerator, size: int) -> dict[str, Any]:
    pair = device.scaleup_pair_bytes_per_s
    if device.architecture == "TPU":
        links = 6 if device.name in ("TPU-v4", "TPU-v5p", "TPU-v7x") else 4
        each = pair or device.scaleup_bytes_per_s / links
        return {
            "kind": "torus",
            "dims": _torus(size, links // 2),
            "link_bandwidth_bytes_per_s": each,
            "latency_s": 1e-6,
        }
    if "pcie" in (device.scaleup_link or device.form).lower():
        lanes = device.pcie_bytes_per_s or device.scaleup_bytes_per_s
        return {
            "kind": "pcie",
            "bandwidth_bytes_per_s": lanes,
            "latency_s": 5e-6,
            "devices_per_switch": min(2, size),
            "uplink_bytes_per_s": lanes,
            "switches_per_socket": max(2, size // 4),
            "socket_bytes_per_s": lanes,
        }
    if device.vendor == "AMD" and pair is not None and size <= 8:
        return {"kind": "mesh", "link_bandwidth_bytes_per_s": pair, "latency_s": 2e-6}
    return _switch(device.scaleup_bytes_per_s, 1e-6)


def _switch(bytes_per_s: float, latency_s: float) -> dict[str, Any]:
    return {"kind": "switch", "bandwidth_bytes_per_s": bytes_per_s, "latency_s": latency_s}


def _torus(size: int, dimensions: int) -> list[int]:
    """Sides as equal as the number of chips allows."""
    sides: list[int] = []
    left = size
    for remaining in range(dimensions, 0, -1):
        target = round(left ** (1 / remaining))
        side = min((s for s in range(1, left + 1) if left % s == 0), key=lambda s: (abs(s - target), s))
        sides.append(side)
        left //= side
    return sides


def _half(device: Accelerator) -> Accelerator:
    """One of the two cores of a chip that a table counts as a device."""
    return msgspec.structs.replace(
        device,
        name=f"{device.name}-core",
        peak_flops={dtype: flops / 2 for dtype, flops in device.peak_flops.items()},
        matmul_flops={},
        source={},
        memory_bytes=device.memory_bytes // 2,
        memory_bytes_per_s=device.memory_bytes_per_s / 2,
        scaleup_bytes_per_s=device.scaleup_bytes_per_s / 2,
    )

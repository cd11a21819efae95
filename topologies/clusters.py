"""Named clusters (`dgx-h100:8`), each a template of a topology file with its source."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import msgspec

from .accelerators import nearest, normalized
from .document import MAX_DEVICES, SCHEMA, TopologyFile, read_file
from .errors import TopologyError
from .topology import Topology


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A catalog entry: `name:3` is three units of `unit_nodes` hosts each.

    With `torus_rank` all hosts of a slice form one torus of that many dimensions.
    """

    name: str
    summary: str
    unit_nodes: int
    node: dict[str, Any]
    network: dict[str, Any]
    source: str
    torus_rank: int = 0


class _Catalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    clusters: tuple[Cluster, ...]
    aliases: dict[str, str]


@functools.cache
def _catalog() -> dict[str, Cluster]:
    catalog = msgspec.json.decode(Path(__file__).with_name("clusters.json").read_bytes(), type=_Catalog)
    by_name = {entry.name: entry for entry in catalog.clusters}
    return by_name | {alias: by_name[name] for alias, name in catalog.aliases.items()}


def list_clusters() -> tuple[str, ...]:
    """Names of the catalog, each usable as `name` or `name:count`."""
    return tuple(name for name, entry in _catalog().items() if name == entry.name)


def cluster_entry(name: str) -> Cluster:
    """The catalog entry of a cluster name without its count, for its summary and source."""
    found = _catalog().get(normalized(name))
    if found is None:
        raise TopologyError(f"unknown cluster {name!r}; {nearest(name, _catalog())}")
    return found


def cluster(name: str) -> Topology:
    """The topology of a catalog cluster, `name` or `name:count` (nodes, racks of an NVL72, hosts of a TPU slice).

    TPU names take `count` hosts in one slice, or `slices x hosts` as in `tpu-v5e:4x64`.
    """
    return Topology(cluster_file(name))


def cluster_file(name: str) -> TopologyFile:
    """The spelled-out topology file of `name:count`."""
    base, _, count = name.partition(":")
    entry = cluster_entry(base)
    units, slices = _count(name, count, entry)
    node = dict(entry.node) | {"name": entry.name, "count": units * entry.unit_nodes * slices}
    if entry.unit_nodes > 1:
        node["domain_nodes"] = entry.unit_nodes
    if entry.torus_rank:
        node["domain_nodes"] = units
        node["fabric"] = node["fabric"] | {"dims": torus_dims(units * node["devices"], entry.torus_rank)}
    nodes = node["count"]
    if nodes * node["devices"] > MAX_DEVICES:
        raise TopologyError(f"cluster {name!r}: {nodes * node['devices']} devices are more than {MAX_DEVICES}")
    written = f"{entry.name}:{count}" if count else entry.name
    return read_file({"schema": SCHEMA, "name": written, "nodes": [node], "networks": [entry.network]})


def _count(name: str, count: str, entry: Cluster) -> tuple[int, int]:
    parts = count.lower().split("x") if entry.torus_rank else [count]
    if ":" not in name:
        return 1, 1
    if (
        not all(part.isascii() and part.isdigit() and len(part) < 8 and int(part) > 0 for part in parts)
        or len(parts) > 2
    ):
        raise TopologyError(
            f"cluster {name!r}: the count after ':' must be a positive integer of at most 7 digits but is {count!r}"
        )
    return int(parts[-1]), int(parts[0]) if len(parts) == 2 else 1


def torus_dims(devices: int, rank: int) -> list[int]:
    """The most cubic torus of `rank` dimensions: the sides whose sum is least, smallest first."""
    best = [1] * (rank - 1) + [devices]
    divisors = [d for d in range(1, math.isqrt(devices) + 1) if devices % d == 0]
    for sides in itertools.combinations_with_replacement(divisors, rank - 1):
        rest, remainder = divmod(devices, math.prod(sides))
        if not remainder and rest >= sides[-1] and sum(sides) + rest < sum(best):
            best = [*sides, rest]
    return best


def expanded(file: TopologyFile) -> TopologyFile:
    """A file based on a catalog `cluster` spelled out, its own names, degradations and measurements kept."""
    assert file.cluster is not None
    if file.nodes or file.networks or file.links:
        raise TopologyError(
            "$.cluster: a catalog cluster brings its nodes and networks; leave nodes, networks and links out"
        )
    try:
        base = cluster_file(file.cluster)
    except TopologyError as error:
        raise TopologyError(f"$.cluster: {error}") from None
    return msgspec.structs.replace(
        base,
        name=file.name or base.name,
        node_names=file.node_names,
        degraded=file.degraded,
        measured=file.measured,
    )

"""What a rented GPU sends to GPUs of other instances."""

from __future__ import annotations

from ..serving.deployments import Link
from ..workload.clocks import at_clock
from ..workload.fleet import FleetJob
from .candidates import canonical
from .machines import BOX_DEVICES, machine_topology

DEFAULT_INSTANCE_BYTES_PER_S = 12.5e9
DEFAULT_LATENCY_S = 10e-6
"""100 Gb/s an instance of eight GPUs, as AWS g5.48xlarge and g6.48xlarge and Google Cloud a2-megagpu-16g have."""


def uplink(job: FleetJob, gpu: str) -> tuple[Link, str]:
    """The least that one GPU of a type sends and takes while its neighbours do the same, and where that is from."""
    gpu = at_clock(gpu)[0]
    given = [each.network_bytes_per_s for each in job.offers if canonical(each.gpu) == gpu]
    topology, _ = machine_topology(gpu)
    node = topology.document["nodes"][0]
    nics = node.get("nics")
    latency = DEFAULT_LATENCY_S if nics is None else 2 * nics["latency_s"]
    if nics is None:
        share, source = DEFAULT_INSTANCE_BYTES_PER_S / BOX_DEVICES, f"100 Gb/s for {BOX_DEVICES}, as nothing is known"
    else:
        total = nics["count"] * nics["bandwidth_bytes_per_s"]
        share, source = total / node["devices"], f"the NICs of {node['name']} shared by its {node['devices']}"
    known = [each for each in given if each is not None]
    if known:
        share, source = min(known + ([share] if None in given else [])), "as offered"
    return Link(share, latency), f"a {gpu} sends caches at {8 * share / 1e9:.3g} Gb/s ({source})"

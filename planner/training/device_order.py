"""Which device of a scale-up domain plays which of the domain's ranks, where its links are not alike.

NVLink meshes, PCIe switches and measured fabrics join some pairs of devices better than others; ranks that exchange
most should be such pairs. The ranks of a domain form the grid of the degrees that fit inside it, and every axis costs
its bytes over the links it takes, as between domains.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Topology

WORK_PER_DOMAIN, WORK_IN_ALL = 100_000, 3_000_000
LARGEST_DOMAIN = 128

Axes = tuple[str, ...]


def order_within_domains(
    topology: Topology, inner: Mapping[str, int], carried: Mapping[Axes, float], work_in_all: int = WORK_IN_ALL
) -> NDArray[np.int64]:
    """Devices of every domain in the order of its ranks, shape [domains, devices of a domain].

    `inner` gives the part of every axis that lies inside a domain, outermost first; `carried` the bytes a device sends
    along each set of axes. Domains are equally large and hold consecutive devices; where all links are alike, or the
    domain is larger than is worth while, devices keep their order.
    """
    size = int(np.prod(list(inner.values())))
    orders = np.arange(topology.n_devices).reshape(-1, size)
    if not 2 < size <= LARGEST_DOMAIN:
        return orders
    found: dict[bytes, NDArray[np.int64]] = {}
    work = max(1, min(WORK_PER_DOMAIN, work_in_all // len(orders)))
    for row, devices in enumerate(orders.copy()):
        rates = topology.bandwidth_bytes_per_s(devices[:, None], devices[None, :])
        key = rates.tobytes()
        if key not in found:
            found[key] = _order(rates, inner, carried, work)
        orders[row] = devices[found[key]]
    return orders


def _order(
    rates: NDArray[np.float64], inner: Mapping[str, int], carried: Mapping[Axes, float], work: int
) -> NDArray[np.int64]:
    """Position of the device for every rank of one domain."""
    from shardwright.solvers.mapping import MappingProblem, Term, solve
    from shardwright.solvers.solution import Work

    given = np.arange(len(rates))
    between = rates[~np.eye(len(rates), dtype=bool)]
    if np.ptp(between) <= 1e-9 * between.max():
        return given
    axes = list(inner)
    terms = []
    for group, sent in carried.items():
        inside = tuple(axes.index(axis) for axis in group if inner.get(axis, 1) > 1)
        if inside and sent > 0:
            ring = group != ("pp",)
            length = int(np.prod([inner[axes[axis]] for axis in inside]))
            terms.append(Term(inside, sent / rates, cyclic=ring and length > 2, reduce="max" if ring else "sum"))
    if not terms:
        return given
    found = solve(MappingProblem(tuple(inner.values()), tuple(terms)), stop=Work(work))
    return given if found.point is None else np.asarray(found.point, dtype=np.int64)

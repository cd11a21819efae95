"""Times of collectives on any group of devices of a topology."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import algorithms
from .accelerators import Accelerator
from .algorithms import Constants, Links
from .coefficients import CollectiveCoefficients, default_coefficients
from .curves import curve_seconds
from .document import Fabric
from .errors import TopologyError
from .links import group_links, node_nics
from .topology import Topology
from .uniform import UniformLinks

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Collectives:
    """Collective times on one topology, by α–β models of the algorithms a library chooses from.

    Operations: all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send_recv, and those of serving
    engines: custom_all_reduce (their own kernels in one domain), moe_dispatch and moe_combine (DeepEP, sizes as the
    bytes a rank sends to all experts together), the latter two also `_low_latency`. Sizes are those of nccl-tests:
    the whole buffer, gathered for all_gather and reduce_scatter, a rank's send buffer for all_to_all. A measured curve
    of the topology wins over the model where one exists for the shape of the group.
    """

    def __init__(self, topology: Topology, coefficients: CollectiveCoefficients | None = None) -> None:
        self.topology = topology
        self.coefficients = coefficients or default_coefficients()
        self._nics = node_nics(topology, self.coefficients)
        self._uniform = UniformLinks(topology, self._nics)
        self._constants: dict[tuple[int, str], Constants] = {}

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was taken from another device because nothing was measured on this one."""
        found = []
        for group in range(len(self.topology.fabric_domains)):
            device, fabric = self._device(group)
            _, measured_on = self.coefficients.of(device, fabric, "all_reduce")
            if measured_on != device.name:
                found.append(
                    f"collectives on {device.name}: no measurements, constants of {measured_on} relative to its links"
                )
        kinds = sorted({nics.kind for nics in self.topology.group_nics if nics and self.topology.n_domains > 1})
        for kind in kinds:
            _, seen = self.coefficients.network(kind)
            if seen != kind:
                found.append(
                    f"collectives over {kind} NICs: no measurements, constants of {seen} relative to their rate"
                )
        return tuple(dict.fromkeys(found))

    def seconds(self, op: str, size_bytes: float, groups: ArrayLike) -> float:
        """Time until the slowest of the groups is done.

        `groups` holds one group of device ids per row, in rank order; all run at the same time and share NICs and
        links. For send_recv a row is a sender and a receiver, for broadcast the root comes first.
        """
        return float(self.group_seconds(op, size_bytes, groups).max(initial=0.0))

    def group_seconds(self, op: str, size_bytes: ArrayLike, groups: ArrayLike) -> Floats:
        """Time of every group while all run; `size_bytes` is one size or one per group."""
        algorithms.check_op(op)
        rows = self._rows(groups)
        size = np.broadcast_to(np.asarray(size_bytes, dtype=float), (len(rows),))
        if rows.shape[1] < 2 or not len(rows):
            return np.zeros(len(rows))
        links = group_links(self.topology, op, rows, self._nics)
        used = np.unique(self.topology.device_fabric[rows])
        alone = group_links(self.topology, op, rows, self._nics, alone=True) if self.topology.curves else links
        return np.where(size > 0, self.timed(op, size, links, alone, used), 0.0)

    def timed(self, op: str, size: Floats, links: Links, alone: Links, used: Ints) -> Floats:
        """Times on given links, which are `alone` where no other group shares them, of the node groups `used`."""
        times = self._slowest(op, size, links, used)
        if not self.topology.curves:
            return times
        with np.errstate(invalid="ignore", divide="ignore"):
            crowded = times / self._slowest(op, size, alone, used)
        return curve_seconds(self.topology.curves, op, size, links, crowded, times)

    def of_groups(self, op: str, groups: ArrayLike) -> GroupTimes:
        """The times of `group_seconds` for many sizes: links are looked at once, groups that get the same once."""
        algorithms.check_op(op)
        rows = self._rows(groups)
        links = group_links(self.topology, op, rows, self._nics)
        used = np.unique(self.topology.device_fabric[rows])
        alone = group_links(self.topology, op, rows, self._nics, alone=True) if self.topology.curves else links
        columns = np.stack([getattr(each, name) for each in (links, alone) for name in Links.__slots__], axis=1)
        _, first, kind = np.unique(columns.astype(float), axis=0, return_index=True, return_inverse=True)
        return GroupTimes(self, op, used, _picked(links, first), _picked(alone, first), kind.reshape(-1))

    def uniform_seconds(
        self,
        op: str,
        size_bytes: ArrayLike,
        ranks_per_domain: ArrayLike,
        domains: ArrayLike,
        sharing: ArrayLike = 1,
    ) -> Floats:
        """Times of groups of `ranks_per_domain` × `domains` ranks, everything broadcast.

        `sharing` groups at the same time share each domain's NICs. Groups lie on the first domains, the ranks of a
        domain side by side; on a homogeneous topology without measured links this equals `seconds` of such groups.
        With a measured network, a ring over d domains gets the 1 / (d + 1) quantile of all links: the slowest of d
        taken by chance.
        """
        algorithms.check_op(op)
        size, r, d, s = np.broadcast_arrays(
            *(np.asarray(each, dtype=float) for each in (size_bytes, ranks_per_domain, domains, sharing))
        )
        shape = size.shape
        flat = [each.ravel() for each in (size, r, d, s)]
        links = self._uniform.links(op, *flat[1:])
        used = np.arange(len(self.topology.fabric_domains))
        alone = self._uniform.links(op, flat[1], flat[2], np.ones_like(flat[3])) if self.topology.curves else links
        times = self.timed(op, flat[0], links, alone, used)
        alone_or_empty = (flat[0] <= 0) | (flat[1] * flat[2] <= 1)
        return np.asarray(np.where(alone_or_empty, 0.0, times).reshape(shape))

    def uniform_links(self, op: str, ranks_per_domain: ArrayLike, domains: ArrayLike, sharing: ArrayLike = 1) -> Links:
        """The links that `uniform_seconds` puts into the model, for flat arrays of shapes."""
        r, d, s = np.broadcast_arrays(*(np.asarray(each, dtype=float) for each in (ranks_per_domain, domains, sharing)))
        return self._uniform.links(op, r.ravel(), d.ravel(), s.ravel())

    def _rows(self, groups: ArrayLike) -> Ints:
        rows = np.atleast_2d(np.asarray(groups, dtype=np.intp))
        if rows.ndim != 2:
            raise TopologyError(f"groups must be rows of device ids but have {rows.ndim} dimensions")
        if rows.size and (rows.min() < 0 or rows.max() >= self.topology.n_devices):
            raise TopologyError(f"groups name a device outside 0 to {self.topology.n_devices - 1}")
        ordered = np.sort(rows, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise TopologyError("a group names a device twice")
        return rows

    def _slowest(self, op: str, size: Floats, links: Links, groups: Ints) -> Floats:
        """Time with the constants of the slowest device among the node groups that take part."""
        times = np.zeros(size.shape)
        for group in groups.tolist():
            times = np.maximum(times, self._fastest(op, size, links, group))
        return times

    def _fastest(self, op: str, size: Floats, links: Links, group: int) -> Floats:
        """Time of the best algorithm, with the constants of one node group's devices."""
        times = np.full(size.shape, np.inf)
        for algorithm in algorithms.algorithms_of(op):
            constants = self._constant(group, algorithm)
            times = np.minimum(times, algorithms.algorithm_seconds(algorithm, size, links, constants))
        if op == "custom_all_reduce":
            times = np.where(np.isfinite(times), times, self._fastest("all_reduce", size, links, group))
        return times

    def _device(self, group: int) -> tuple[Accelerator, Fabric | None]:
        domain = int(self.topology.fabric_domains[group])
        first = int(np.searchsorted(self.topology.device_domain, domain))
        fabric, _ = self.topology.domain_fabric(domain)
        return self.topology.accelerators[int(self.topology.device_accelerator[first])], fabric

    def _constant(self, group: int, algorithm: str) -> Constants:
        key = (group, algorithm)
        if key not in self._constants:
            found, _ = self.coefficients.of(*self._device(group), algorithms.coefficients_name(algorithm))
            efficiency = np.array((found.efficiency * 3)[:3])
            self._constants[key] = Constants(found.floor_s, found.step_s, efficiency, found.copy_passes, found.ramp)
        return self._constants[key]


@dataclass(frozen=True)
class GroupTimes:
    """One operation on some groups that run at the same time, for any sizes; `kind` numbers each group's links."""

    collectives: Collectives
    op: str
    used: Ints
    links: Links
    alone: Links
    kind: Ints

    def seconds(self, size_bytes: ArrayLike) -> Floats:
        """Times of every kind of group for every size, shape [kinds, sizes]."""
        size = np.asarray(size_bytes, dtype=float)
        kinds = len(self.links.ranks)
        which = np.repeat(np.arange(kinds), len(size))
        sizes = np.tile(size, kinds)
        links, alone = _picked(self.links, which), _picked(self.alone, which)
        times = self.collectives.timed(self.op, sizes, links, alone, self.used)
        return np.where((sizes > 0) & (links.ranks * links.domains > 1), times, 0.0).reshape(kinds, len(size))


def _picked(links: Links, which: Ints) -> Links:
    return Links(**{name: getattr(links, name)[which] for name in Links.__slots__})

"""Measured matrices and curves of a topology file, checked against the devices they speak of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .document import Curve, LatencyMatrix, Matrix, Measured
from .errors import TopologyError
from .layout import Floats, Layout
from .units import BYTES_PER_S, LEAST, MOST, MOST_SECONDS, SECONDS


@dataclass(frozen=True, slots=True)
class Measurements:
    """Measured values in SI; absent ones are None.

    `node_fraction` is the measured rate between nodes over the nominal rate of their NICs, whatever the scope was.
    """

    node_fraction: Floats | None = None
    device_bytes_per_s: Floats | None = None
    device_node_fraction: Floats | None = None
    fabric_bytes_per_s: Floats | None = None
    node_latency_s: Floats | None = None
    curves: tuple[Curve, ...] = ()


def measurements(measured: Measured | None, arrays: Layout) -> Measurements:
    """The measured section in SI. Raises TopologyError with the path of a value that is not usable."""
    if measured is None:
        return Measurements()
    nodes, devices = len(arrays.node_domain), len(arrays.device_node)
    node_fraction = device = device_fraction = fabric = latency = None
    if measured.node_bandwidth is not None:
        rates = _bandwidth(measured.node_bandwidth, nodes, "node_bandwidth", "nodes")
        nominal = arrays.node_nic_bytes_per_s * (1 if measured.node_bandwidth.scope == "nic" else arrays.node_nics)
        if not nominal.all():
            raise TopologyError("$.measured.node_bandwidth: the nodes have no NICs")
        node_fraction = rates / np.minimum(nominal[:, None], nominal[None, :])
    if measured.device_bandwidth is not None:
        device = _bandwidth(measured.device_bandwidth, devices, "device_bandwidth", "devices")
        device_fraction = _node_means(device, arrays)
    if measured.fabric_bandwidth is not None:
        sizes = set(arrays.fabric_sizes)
        if len(sizes) > 1:
            raise TopologyError("$.measured.fabric_bandwidth: domains differ in size; give device_bandwidth instead")
        fabric = _bandwidth(measured.fabric_bandwidth, sizes.pop(), "fabric_bandwidth", "devices of a domain")
    if measured.node_latency is not None:
        latency = _latency(measured.node_latency, nodes)
    return Measurements(node_fraction, device, device_fraction, fabric, latency, measured.curves)


def _bandwidth(matrix: Matrix, n: int, field: str, what: str) -> Floats:
    values = _square(matrix, n, field, what)
    _refuse(values, ~((values >= LEAST) & (values <= MOST)), f"$.measured.{field}.matrix", "a positive bandwidth")
    return values * BYTES_PER_S[matrix.unit]


def _latency(matrix: LatencyMatrix, n: int) -> Floats:
    values = _square(matrix, n, "node_latency", "nodes")
    _refuse(values, ~((values >= 0) & (values <= MOST_SECONDS)), "$.measured.node_latency.matrix", "a latency")
    return values * SECONDS[matrix.unit]


def _square(matrix: Matrix | LatencyMatrix, n: int, field: str, what: str) -> Floats:
    path = f"$.measured.{field}.matrix"
    if len(matrix.matrix) != n:
        raise TopologyError(f"{path}: expected {n} rows, one for each of the {n} {what}, but got {len(matrix.matrix)}")
    for i, row in enumerate(matrix.matrix):
        if len(row) != n:
            raise TopologyError(f"{path}[{i}]: expected {n} values but got {len(row)}")
    return np.array(matrix.matrix, dtype=float)


def _refuse(values: Floats, wrong: NDArray[np.bool_], path: str, right: str) -> None:
    """Raise for the first wrong value off the diagonal; the diagonal is set to one, since nothing reads it."""
    np.fill_diagonal(wrong, False)
    np.fill_diagonal(values, 1.0)
    if wrong.any():
        i, j = np.argwhere(wrong)[0].tolist()
        got = "null" if np.isnan(values[i, j]) else values[i, j]
        raise TopologyError(f"{path}[{i}][{j}]: expected {right} but got {got}")


def _node_means(device: Floats, arrays: Layout) -> Floats:
    """Mean device-to-device rate between nodes over what one device's NICs give nominally."""
    starts = np.searchsorted(arrays.device_node, np.arange(len(arrays.node_domain)))
    sums = np.add.reduceat(np.add.reduceat(device, starts, axis=0), starts, axis=1)
    means = sums / (arrays.node_devices[:, None] * arrays.node_devices[None, :])
    nominal = arrays.node_nic_bytes_per_s * np.maximum(1.0, arrays.node_nics / arrays.node_devices)
    nominal = np.where(nominal > 0, nominal, 1.0)
    return np.asarray(means / np.minimum(nominal[:, None], nominal[None, :]))

"""Fitted constants of the collective model: read from `coefficients.json`, chosen for a device and its fabric."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import msgspec

from .accelerators import Accelerator
from .document import Fabric, MeshFabric, NicKind, PcieFabric, SwitchFabric
from .errors import TopologyError

_STAND_INS = {"send_recv": "all_gather"}
"""Algorithm of the same device that stands in for one it was not measured with: a ring of two is a send."""


class OpCoefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One algorithm on one kind of device, inside a scale-up domain.

    `floor_s` is what a launch takes, `step_s` one hop of the algorithm, `efficiency` the reachable share of the link
    rate: one value, or three for a PCIe tree (within a switch, within a socket, across sockets). `copy_passes` is how
    often a rank's own part of the buffer passes through its memory. `ramp` (root seconds) weighs the square root of
    the transfer time: what a transfer cut into chunks of the best size adds to its first and last chunk.
    """

    floor_s: float
    step_s: float
    efficiency: tuple[float, ...]
    copy_passes: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        values = (self.floor_s, self.step_s, self.copy_passes, self.ramp)
        if any(not (math.isfinite(each) and each >= 0) for each in values):
            raise TopologyError("floor_s, step_s, copy_passes and ramp must be finite and at least 0")
        if len(self.efficiency) not in (1, 3) or any(not (math.isfinite(e) and e > 0) for e in self.efficiency):
            raise TopologyError("efficiency must be one or three positive numbers")


class NetworkCoefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of NIC: software cost of a hop and of each message beyond the first, reachable share of the rate."""

    step_s: float
    message_s: float
    efficiency: float
    ramp: float = 0.0

    def __post_init__(self) -> None:
        values = (self.step_s, self.message_s, self.ramp)
        if any(not (math.isfinite(each) and each >= 0) for each in values) or not 0 < self.efficiency <= 1:
            raise TopologyError("step_s, message_s and ramp must be at least 0 and efficiency above 0 and at most 1")


class CollectiveCoefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every constant of the model: `devices[name][algorithm]` and `networks[kind]`.

    `like[name]` is the device whose constants stand in for one without measurements, `fabrics[kind]` the stand-in of
    every other, `networks_like[kind]` that of a kind of NIC. `provenance` says from what, when and how they were
    fitted.
    """

    devices: dict[str, dict[str, OpCoefficients]]
    networks: dict[NicKind, NetworkCoefficients]
    networks_like: dict[NicKind, NicKind]
    like: dict[str, str]
    fabrics: dict[str, str]
    provenance: dict[str, str]

    def of(self, device: Accelerator, fabric: Fabric | None, algorithm: str) -> tuple[OpCoefficients, str]:
        """The constants for a device and algorithm, and the device they were measured on."""
        for name in (device.name, self.like.get(device.name), self.fabrics[fabric_kind(fabric)]):
            own = self.devices.get(name or "", {})
            found = own.get(algorithm) or own.get(_STAND_INS.get(algorithm, ""))
            if name and found is not None:
                return found, name
        for name in sorted(self.devices):
            if algorithm in self.devices[name]:
                return self.devices[name][algorithm], name
        raise TopologyError(f"no coefficients for {algorithm!r} on any device")

    def network(self, kind: NicKind) -> tuple[NetworkCoefficients, NicKind]:
        """The constants for a kind of NIC, and the kind they were measured on."""
        measured_on = kind if kind in self.networks else self.networks_like.get(kind, "ib")
        if measured_on not in self.networks:
            raise TopologyError(f"no coefficients for {kind} NICs; known: {', '.join(self.networks)}")
        return self.networks[measured_on], measured_on


def fabric_kind(fabric: Fabric | None) -> str:
    """`switch`, `mesh`, `pcie`, `torus`, or `none` for a device that stands alone."""
    if fabric is None:
        return "none"
    if isinstance(fabric, SwitchFabric):
        return "switch"
    if isinstance(fabric, MeshFabric):
        return "mesh"
    return "pcie" if isinstance(fabric, PcieFabric) else "torus"


@functools.cache
def default_coefficients() -> CollectiveCoefficients:
    """The constants that ship with the tool."""
    data = Path(__file__).with_name("coefficients.json").read_bytes()
    return msgspec.json.decode(data, type=CollectiveCoefficients)

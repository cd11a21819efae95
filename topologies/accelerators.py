"""Accelerators: peak rates, memory and links of one device, each figure with its source."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import msgspec

from .errors import TopologyError
from .units import check_positive

DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")


class Accelerator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device as a program sees it: a GPU, a GCD of a dual-die package, a TPU chip.

    `peak_flops` is dense (no structured sparsity) by dtype; `matmul_flops` is the best matrix product anyone measured.
    `memory_bytes` is what a process can allocate from. Link rates are for one direction: `scaleup_bytes_per_s` is the
    sum over a device's scale-up links (PCIe when there is no other), `scaleup_pair_bytes_per_s` what one pair of
    devices gets on them. `usd_per_hour` is a default to be overridden: prices move monthly. `source` says where each
    figure comes from.
    """

    name: str
    vendor: str
    architecture: str
    year: int
    peak_flops: dict[str, float]
    memory_bytes: int
    memory_bytes_per_s: float
    scaleup_bytes_per_s: float
    scaleup_pair_bytes_per_s: float | None = None
    scaleup_link: str = ""
    pcie_bytes_per_s: float | None = None
    matmul_flops: dict[str, float] = {}
    memory_kind: str = ""
    form: str = ""
    tdp_watts: float | None = None
    usd_per_hour: float | None = None
    source: dict[str, str] = {}

    def __post_init__(self) -> None:
        if not self.name:
            raise TopologyError("an accelerator needs a name")
        for field in ("memory_bytes", "memory_bytes_per_s", "scaleup_bytes_per_s"):
            check_positive(f"accelerator {self.name}: {field}", getattr(self, field))
        for field in ("scaleup_pair_bytes_per_s", "pcie_bytes_per_s", "tdp_watts", "usd_per_hour"):
            if getattr(self, field) is not None:
                check_positive(f"accelerator {self.name}: {field}", getattr(self, field))
        for field in ("peak_flops", "matmul_flops"):
            for dtype, value in getattr(self, field).items():
                if dtype not in DTYPES:
                    raise TopologyError(f"accelerator {self.name}: {field} knows {', '.join(DTYPES)}, not {dtype!r}")
                check_positive(f"accelerator {self.name}: {field}.{dtype}", value)
        if not self.peak_flops:
            raise TopologyError(f"accelerator {self.name}: peak_flops must name at least one dtype")

    def peak(self, dtype: str) -> float:
        """Dense FLOP/s at a dtype; raises TopologyError when that figure is not known."""
        value = self.peak_flops.get(dtype)
        if value is None:
            raise TopologyError(f"{self.name} has no known {dtype} peak; known: {', '.join(self.peak_flops)}")
        return value


class _Catalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accelerators: tuple[Accelerator, ...]
    aliases: dict[str, str]


@functools.cache
def _catalog() -> dict[str, Accelerator]:
    data = Path(__file__).with_name("accelerators.json").read_bytes()
    catalog = msgspec.json.decode(data, type=_Catalog)
    by_name = {normalized(device.name): device for device in catalog.accelerators}
    return by_name | {alias: by_name[normalized(name)] for alias, name in catalog.aliases.items()}


def normalized(name: str) -> str:
    """Lower case with dashes, so that `H100 SXM5 80GB`, `h100_sxm5_80gb` and `H100-SXM5-80GB` are one name."""
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names most like a mistyped one, or the first of all when none is, for an error message."""
    import difflib

    names = sorted(set(known))
    close = difflib.get_close_matches(normalized(name), [normalized(each) for each in names], n=3, cutoff=0.4)
    if not close:
        return f"known are {', '.join(names[:8])} and {len(names) - 8} more"
    return "nearest: " + ", ".join(each for each in names if normalized(each) in close)


def accelerator(name: str) -> Accelerator:
    """The catalog's accelerator of that name or alias (`h100`, `a100-80gb`, `H100-SXM5-80GB`)."""
    found = _catalog().get(normalized(name))
    if found is None:
        known = [*list_accelerators(), *_catalog()]
        raise TopologyError(f"unknown accelerator {name!r}; {nearest(name, known)}")
    return found


def list_accelerators() -> tuple[str, ...]:
    """Names of the catalog, sorted."""
    return tuple(sorted({device.name for device in _catalog().values()}))

"""The figures of a coefficients document that are fitted, and the machines of cases that they make up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.serving_cases import Case
from shardwright.planner.costs.serving.coefficients import Engine, Kernels, generation
from shardwright.planner.costs.serving.step import Machine
from shardwright.planner.workload.serving_layout import Layout

KERNEL_FIGURES = (
    "compute.bf16",
    "compute.fp8",
    "compute.fp4",
    "gemm_start_s.bf16",
    "gemm_start_s.fp8",
    "gemm_start_s.fp4",
    "memory",
    "prefill_attention",
    "decode_attention",
    "decode_attention_fp8",
    "decode_attention_compute",
    "attention_start_s",
    "expert_compute.bf16",
    "expert_compute.fp8",
    "expert_compute.fp4",
    "expert_memory",
    "expert_start_s.bf16",
    "expert_start_s.fp8",
    "expert_start_s.fp4",
    "expert_rows",
    "kernel_s",
    "small_reduce_s",
    "library_reduce",
    "reduce_rate",
)
ENGINE_FIGURES = (
    "step_s",
    "sequence_s",
    "prefill_s",
    "prompt_s",
    "launch_s",
    "request_s",
    "stage_s",
    "hand_over_s",
    "start",
    "gemm",
    "attention",
    "read",
    "grouped",
    "expert",
    "expert_work",
    "expert_floor",
    "reduce",
    "imbalance",
)
_SHARES = (
    "compute",
    "memory",
    "prefill_attention",
    "decode_attention",
    "decode_attention_fp8",
    "decode_attention_compute",
    "expert_compute",
    "expert_memory",
    "expert_floor",
    "reduce_rate",
)
_TRANSFERS = ("reduce", "small_reduce_s", "library_reduce", "reduce_rate")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the file: an architecture's, an engine generation's, or the host factor of a kind of device."""

    owner: str
    name: str

    @property
    def limits(self) -> tuple[float, float]:
        """Least and most: shares of a peak end at it, and the fullest rank is at least as full as the mean."""
        least = 1.0 if self.name == "imbalance" else 1e-12
        return least, 1.0 if self.name.split(".")[0] in _SHARES else float("inf")


class Figures:
    """The figures that cases speak to, as they are now."""

    def __init__(self, document: dict[str, Any], cases: Sequence[Case]) -> None:
        self.original = document
        self.kernels = {name: msgspec.convert(value, Kernels) for name, value in document["architectures"].items()}
        self.engines = {value["generation"]: msgspec.convert(value, Engine) for value in document["engines"]}
        self.hosts = dict(document["hosts"])
        self.cases = cases
        self.owners = [self._owners(case) for case in cases]
        used = {owner for owners in self.owners for owner in owners}
        self.all: list[Figure] = []
        for records, names in ((self.kernels, KERNEL_FIGURES), (self.engines, ENGINE_FIGURES)):
            for owner in records:
                self.all += [Figure(owner, each) for each in names if owner in used and self._has(owner, each)]
        self.all += [Figure(owner, "host") for owner in self.hosts if owner in used]

    def machine(self, place: int) -> Machine:
        """What a case ran on and with."""
        architecture, name, host = self.owners[place]
        links = self.cases[place].fabric
        return Machine(links, self.kernels[architecture], self.engines[name], self.hosts.get(host, 1.0))

    def point(self) -> NDArray[np.float64]:
        """Logarithms of all figures."""
        return np.array([np.log(self.read(each)) for each in self.all])

    def move(self, point: NDArray[np.float64]) -> None:
        """Set all figures from their logarithms, within their limits."""
        for figure, value in zip(self.all, point, strict=True):
            least, most = figure.limits
            self.write(figure, min(max(float(np.exp(value)), least), most))

    def read(self, figure: Figure) -> float:
        """The value of one figure."""
        if figure.name == "host":
            return float(self.hosts[figure.owner])
        record: Any = self.kernels.get(figure.owner) or self.engines[figure.owner]
        head, _, key = figure.name.partition(".")
        value = getattr(record, head)
        return float(value[key] if key else value)

    def write(self, figure: Figure, value: float) -> None:
        """Set one figure."""
        if figure.name == "host":
            self.hosts[figure.owner] = value
            return
        store: Any = self.kernels if figure.owner in self.kernels else self.engines
        record = store[figure.owner]
        head, _, key = figure.name.partition(".")
        new = {**getattr(record, head), key: value} if key else value
        store[figure.owner] = msgspec.structs.replace(record, **{head: new})

    def speaks_to(self, place: int, figure: Figure) -> bool:
        """Whether the prediction of a case can depend on a figure: what is not worth a derivative is left out."""
        if figure.owner not in self.owners[place]:
            return False
        case = self.cases[place]
        head, _, format_ = figure.name.partition(".")
        if "expert" in head or head == "imbalance":
            routed = any(op.name == "experts" for block in case.model.blocks for op in block.operators)
            if not routed or (head == "imbalance" and not _any(case, "ep")):
                return False
        if head in _TRANSFERS and not _any(case, "devices"):
            return False
        if head == "stage_s" and not _any(case, "pp"):
            return False
        if head == "hand_over_s" and len(case.layouts) == 1:
            return False
        narrow = case.quantization.name.split("+")[0]
        return not (format_ == "fp4" and "fp4" not in narrow) and not (format_ == "fp8" and narrow == "bf16")

    def document(self, provenance: str) -> dict[str, Any]:
        """The file with the figures as they are now, to four digits."""
        document = dict(self.original)
        document["hosts"] = _rounded(self.hosts)
        document["architectures"] = {name: _rounded(msgspec.to_builtins(each)) for name, each in self.kernels.items()}
        document["engines"] = [_rounded(msgspec.to_builtins(each)) for each in self.engines.values()]
        figures = msgspec.json.encode([document[key] for key in ("hosts", "architectures", "engines")])
        document["version"] = hashlib.sha256(figures).hexdigest()[:12]
        document["provenance"] = provenance
        return document

    def _owners(self, case: Case) -> tuple[str, str, str]:
        device, relatives = case.fabric.accelerator, self.original["relatives"]
        architecture = device.name if device.name in self.kernels else device.architecture
        if architecture not in self.kernels:
            architecture = relatives.get(device.name) or relatives.get(device.architecture, relatives["*"])
        known, _ = generation(list(self.engines.values()), case.engine, case.engine_version)
        host = next((name for name in self.hosts if device.name.startswith(name)), "")
        return architecture, known.generation, host

    def _has(self, owner: str, name: str) -> bool:
        record: Any = self.kernels.get(owner) or self.engines[owner]
        head, _, key = name.partition(".")
        value = getattr(record, head)
        return bool((value.get(key, 0.0) if key else value) > 0)


def _any(case: Case, degree: str) -> bool:
    return any(_degree(layout, degree) > 1 for layout in case.layouts)


def _degree(layout: Layout, degree: str) -> int:
    return int(getattr(layout, degree))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value

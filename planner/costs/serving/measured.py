"""Measured operators from AIConfigurator's tables, read as the parquet files they are.

The package `aiconfigurator-core` (Apache-2.0) carries one parquet table per system, operator, engine and version. Its
files are read directly: their format is stable, its Python interface is not. Products are taken from the table by the
nearest measured shape, moved to the shape asked for by the ratio of their rooflines; attention tables give the share
of bandwidth and of peak that attention reaches. What the tables do not hold stays as fitted.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Accelerator

from ...errors import InputError
from ...files import is_folder
from .coefficients import Kernels

Array = NDArray[np.float64]
Table = Mapping[str, Sequence[Any]]

PACKAGE = "aiconfigurator"
_MODULE = "aiconfigurator_core"
_SYSTEMS = (
    ("GB300", "gb300"), ("GB200", "gb200"), ("B300", "b300_sxm"), ("B200", "b200_sxm"), ("H200-SXM", "h200_sxm"),
    ("H100-SXM", "h100_sxm"), ("H100-PCIe", "h100_pcie"), ("A100-SXM", "a100_sxm"), ("A100-PCIe", "a100_pcie"),
    ("L40S", "l40s"), ("L4", "l4"), ("A30", "a30"), ("RTX-PRO-6000", "rtx_pro_6000_server"),
)  # fmt: skip
_DTYPES = {"bf16": ("bfloat16", "float16"), "fp8": ("fp8", "fp8_block"), "fp4": ("nvfp4",), "int8": ("int8", "sq")}
_READ_S = 2e-4  # least time of a decode attention's traffic at full bandwidth: where its start no longer matters
_WORK_S = 1e-3  # the same of a prefill attention's products at full rate
_MOST_GROUPED = 16  # query heads on one cached head; beyond, attention computes rather than reads
_HEAD = 128  # the size of a head in most models
_LARGEST = 0.9  # quantile that stands in for these where all that was measured is smaller


@dataclass(frozen=True, slots=True)
class Products:
    """Measured products in one number format: times by tokens for every measured [k, n]."""

    tokens: Array
    k: Array
    n: Array
    seconds: Array  # [shape, tokens]


@dataclass(frozen=True, slots=True)
class MeasuredOperators:
    """Tables of one accelerator and engine; `versions` is what a plan records of them."""

    products: Mapping[str, Products]
    versions: Mapping[str, str]
    peak_flops: Mapping[str, float]
    bytes_per_s: float

    def product_seconds(self, dtype: str, k: float, n: float, tokens: Array) -> Array | None:
        """Time of one [tokens, k] × [k, n], or None when no product of that format was measured."""
        found = self.products.get(dtype)
        if found is None:
            return None
        distance = np.hypot(np.log(found.k / k), np.log(found.n / n))
        near = int(distance.argmin())
        measured = np.interp(np.log(np.maximum(tokens, 1.0)), np.log(found.tokens), found.seconds[near])
        beyond = np.maximum(tokens / found.tokens[-1], 1.0)
        ratio = self._roofline(dtype, k, n, tokens) / self._roofline(dtype, found.k[near], found.n[near], tokens)
        return np.where(tokens > 0, measured * beyond * ratio, 0.0)

    def _roofline(self, dtype: str, k: float, n: float, tokens: Array) -> Array:
        size = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625}[dtype]
        compute = 2 * tokens * k * n / self.peak_flops.get(dtype, self.peak_flops["bf16"])
        memory = (k * n * size + tokens * (k + n) * 2) / self.bytes_per_s
        return np.asarray(4e-6 + np.hypot(compute, memory), dtype=float)


def measured_operators(source: str, accelerator: Accelerator, engine: str) -> MeasuredOperators | None:
    """The tables of an accelerator and engine; None when the source has none for them.

    `source` is `aiconfigurator` for the installed package or the folder of its `systems`. Raises InputError when the
    package, the folder or a parquet reader is missing.
    """
    folder = _systems(source) / "data"
    system = next((name for start, name in _SYSTEMS if accelerator.name.startswith(start)), None)
    if system is None or not (folder / system).is_dir():
        return None
    path, version = _newest(folder / system / "gemm" / engine, "gemm_perf.parquet")
    if path is None:
        return None
    peaks = {"bf16": accelerator.peak_flops.get("bf16") or accelerator.peak_flops["fp16"]} | dict(
        accelerator.peak_flops
    )
    return MeasuredOperators(
        products=_products(read_table(path)),
        versions={f"{system}/gemm/{engine}": version} | _package_version(source),
        peak_flops=peaks,
        bytes_per_s=accelerator.memory_bytes_per_s,
    )


def measured_kernels(
    source: str, accelerator: Accelerator, engine: str, figures: Kernels
) -> tuple[Kernels, dict[str, str]]:
    """The figures with attention's shares replaced by measured ones, and the versions of the tables used."""
    folder = _systems(source) / "data"
    system = next((name for start, name in _SYSTEMS if accelerator.name.startswith(start)), "")
    base = folder / system / "attention" / engine
    changes: dict[str, float] = {}
    versions: dict[str, str] = {}
    path, version = _newest(base, "generation_attention_perf.parquet")
    if path is not None:
        table = read_table(path)
        versions[f"{system}/attention/{engine}"] = version
        for cache, field, size in (("bfloat16", "decode_attention", 2), ("fp8", "decode_attention_fp8", 1)):
            share = _read_share(table, cache, size, accelerator.memory_bytes_per_s)
            changes |= {field: share} if share else {}
    path, version = _newest(base, "context_attention_perf.parquet")
    if path is not None:
        peak = accelerator.peak_flops.get("bf16") or accelerator.peak_flops["fp16"]
        share = _compute_share(read_table(path), peak)
        versions[f"{system}/attention/{engine}"] = version
        changes |= {"prefill_attention": share} if share else {}
    return msgspec.structs.replace(figures, **changes), versions


def read_table(path: Path) -> Table:
    """The columns of a parquet file. Raises InputError when no reader is installed or the file is not one."""
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]  # optional
    except ImportError as error:
        raise InputError(
            "measured operators are parquet files: install pyarrow (shardwright[measured]) to read them"
        ) from error
    try:
        columns: Table = parquet.read_table(path).to_pydict()
    except (OSError, ValueError) as error:
        raise InputError(f"measured operators {path}: not a parquet table ({str(error).splitlines()[0]})") from error
    return columns


def _systems(source: str) -> Path:
    if source != PACKAGE:
        folder = Path(source)
        found = next((each for each in (folder, folder / "systems") if is_folder(each / "data")), None)
        if found is None:
            raise InputError(f"measured operators {source}: no folder with data/SYSTEM/gemm/… inside")
        return found
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise InputError("measured operators: the package aiconfigurator-core is not installed (shardwright[measured])")
    return Path(spec.origin).parent / "systems"


def _package_version(source: str) -> dict[str, str]:
    if source != PACKAGE:
        return {}
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"aiconfigurator-core": version("aiconfigurator-core")}
    except PackageNotFoundError:
        return {}


def _newest(folder: Path, name: str) -> tuple[Path | None, str]:
    """The table of the newest version under a folder, and that version."""
    found = sorted(folder.glob(f"*/{name}"), key=lambda path: _order(path.parent.name)) if folder.is_dir() else []
    return (found[-1], found[-1].parent.name) if found else (None, "")


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _products(table: Table) -> dict[str, Products]:
    """Times in seconds (tables hold milliseconds) of the shapes measured at every token count of their format."""
    dtypes = np.array(table["gemm_dtype"])
    m, n, k, ms = (np.array(table[name], dtype=float) for name in ("m", "n", "k", "latency"))
    found: dict[str, Products] = {}
    for dtype, names in _DTYPES.items():
        name = next((each for each in names if (dtypes == each).any()), None)
        if name is None:
            continue
        mine = dtypes == name
        tokens = np.unique(m[mine])
        shapes, row = np.unique(np.stack([k[mine], n[mine]], axis=1), axis=0, return_inverse=True)
        times = np.full((len(shapes), len(tokens)), np.nan)
        times[row.ravel(), np.searchsorted(tokens, m[mine])] = ms[mine] / 1e3
        whole = ~np.isnan(times).any(axis=1)
        if whole.any():
            found[dtype] = Products(tokens, shapes[whole, 0], shapes[whole, 1], times[whole])
    return found


def _read_share(table: Table, cache: str, size: int, bytes_per_s: float) -> float | None:
    """Median share of bandwidth over the decode attentions with that cache that read most, by grouped heads if any.

    Times alone do not tell reading: the longest rows are those of many query heads on one cached head, which compute,
    and windowed rows read less than their context.
    """
    columns = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "latency")
    batch, isl, step, heads, kv_heads, dim, ms = (np.array(table[name], dtype=float) for name in columns)
    cached = np.where(kv_heads > 0, kv_heads, heads)
    mine = (np.array(table["kv_cache_dtype"]) == cache) & _whole_context(table) & (heads / cached <= _MOST_GROUPED)
    moved = batch * (isl + step) * 2 * cached * dim * size
    ideal = moved / bytes_per_s
    for chosen in (mine & (heads > cached) & (dim == _HEAD), mine & (heads > cached), mine):
        if (chosen & (ideal >= _READ_S)).any() or (chosen is mine and chosen.any()):
            return _median_of_large(ideal, ms / 1e3, chosen, _READ_S)
    return None


def _compute_share(table: Table, peak_flops: float) -> float | None:
    """Median share of peak over the causal prefill attentions in 16 bits that compute most."""
    columns = ("batch_size", "isl", "step", "num_heads", "head_dim", "latency")
    batch, isl, step, heads, dim, ms = (np.array(table[name], dtype=float) for name in columns)
    mine = (np.array(table["attn_dtype"]) == "bfloat16") & _whole_context(table)
    mine = mine & (dim == _HEAD) if (mine & (dim == _HEAD)).any() else mine
    work = batch * isl * (step + isl / 2) * 4 * heads * dim
    return _median_of_large(work / peak_flops, ms / 1e3, mine, _WORK_S)


def _whole_context(table: Table) -> NDArray[np.bool_]:
    """The rows without a sliding window; some tables have none at all."""
    if "window_size" not in table:
        return np.ones(len(table["latency"]), dtype=bool)
    return np.array(table["window_size"], dtype=float) <= 0


def _median_of_large(ideal: Array, seconds: Array, mine: NDArray[np.bool_], least_s: float) -> float | None:
    if not mine.any():
        return None
    large = mine & (ideal >= (least_s if (ideal[mine] >= least_s).any() else np.quantile(ideal[mine], _LARGEST)))
    share = float(np.median(ideal[large] / seconds[large]))
    return share if share <= 1 else None  # faster than the device: what the table timed is not what is asked

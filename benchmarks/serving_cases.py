"""Rows of a table of serving measurements as cases a cost model can predict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import msgspec

from benchmarks.serving_engines import engine_of
from benchmarks.serving_models import SkippedError, model_of
from shardwright.models import ModelGraph
from shardwright.planner.costs.serving.communication import Fabric, fabric
from shardwright.planner.errors import InputError
from shardwright.planner.workload.serving_layout import Layout, Quantization, quantization
from shardwright.topologies import (
    Accelerator,
    TopologyError,
    accelerator,
    cluster,
    list_clusters,
    parse_topology,
)

Row = Mapping[str, str | None]

# Mean prompt tokens of the MLPerf Inference data sets (mlcommons/inference reference READMEs and dataset statistics).
DATASET_ISL = {"openorca (": 294, "openorca+": 218, "cnn": 870, "longbench": 9428, "govreport": 9428}
# Sequences the TensorRT-LLM performance pages send, by prompt and output length ("Preparing a Dataset").
TRTLLM_REQUESTS = {
    (128, 128): 30000,
    (128, 4096): 1500,
    (2048, 2048): 1500,
    (5000, 500): 1500,
    (20000, 2000): 1000,
    (8192, 1024): 1500,
    (1024, 8192): 1500,
    (32768, 1024): 1000,
    (1024, 32768): 1000,
}
# Mean lengths of samples of ShareGPT, as serving benchmarks filter it: lengths vary widely around them.
SHAREGPT_MEANS = ((202, 214), (215.2, None))

MOST_DEVICES = 4096
MOST_TOKENS = 4_000_000
MOST_LOAD = 100_000


@dataclass(frozen=True, slots=True)
class Case:
    """One measured deployment under one load; `metrics` are the measured seconds and tokens per second and GPU."""

    name: str
    source: str
    verified: bool
    speculative: bool
    model: ModelGraph
    model_name: str
    fabric: Fabric
    accelerator: str
    quantization: Quantization
    engine: str
    engine_version: str
    layouts: tuple[Layout, ...]  # aggregated: (layout,); disaggregated: (prefill, decode)
    workers: tuple[int, ...]
    devices: int
    isl: float
    osl: float
    spread: float
    variable: bool
    requests: int | None
    token_mean: bool  # TPOT is a mean over tokens and not over requests
    median: bool  # latencies are medians over requests
    load_kind: str
    load: float | None
    metrics: Mapping[str, float]
    derived: str
    group: tuple[str, ...]


def case_of(row: Row) -> Case:
    """The case of a row. Raises SkippedError with the reason when it cannot be predicted."""
    if "unit-ambiguous" in _text(row, "config_status"):
        raise SkippedError("unit of the figure ambiguous in the source")
    name = _text(row, "model")
    graph = model_of(name)
    device = _accelerator(_text(row, "gpu"))
    devices = int(_number(row, "num_gpus") or 0)
    layouts, workers = _layouts(row, devices, graph)
    devices = devices or sum(layout.devices * count for layout, count in zip(layouts, workers, strict=True))
    if devices > MOST_DEVICES or max(each.devices for each in layouts) > MOST_DEVICES:
        raise SkippedError(f"more than {MOST_DEVICES} devices")
    if device.vendor == "AMD" and "variant: meta" in _text(row, "notes"):
        raise SkippedError("checkpoint format without kernels on this accelerator")
    isl, variable = _length(row)
    variable = variable or _is_sharegpt(row, isl)
    metrics = _metrics(row, devices)
    kind = _text(row, "load_kind")
    if not kind:
        raise SkippedError("load not given")
    dynamo = "InferenceX" in _text(row, "source") and _text(row, "mode").startswith("disagg")
    engine, version = engine_of(_text(row, "engine"), _text(row, "engine_version"), _text(row, "notes"), dynamo)
    osl, load = _number(row, "osl") or 1.0, _load(row)
    _check_sizes(devices, isl, osl, load)
    notes = _text(row, "notes")
    key = ("source", "model", "quant", "gpu", "engine", "engine_version", "isl", "osl", "load_kind", "load", "num_gpus")
    return Case(
        name=_text(row, "id"),
        source=_text(row, "source"),
        verified=_text(row, "source_confidence") == "verified",
        speculative=not re.match(r"(no\b|$)", _text(row, "spec_decode")),
        model=graph,
        model_name=name,
        fabric=_capped(row, _fabric(device.name, max(each.devices for each in layouts), "Core" in _text(row, "gpu"))),
        accelerator=device.name,
        quantization=_quantization(row, name, engine, device),
        engine=engine,
        engine_version=version,
        layouts=layouts,
        workers=workers,
        devices=devices,
        isl=isl,
        osl=osl,
        spread=0.2 if "randomi" in notes else 0.0,
        variable=variable,
        requests=_stated_requests(notes),
        token_mean="itl" in _text(row, "metric").lower(),
        median=re.search(r"\bmedians\b", notes) is not None,
        load_kind=kind,
        load=load,
        metrics=metrics,
        derived=_text(row, "derived_cols"),
        group=tuple(_text(row, column) for column in key),
    )


def _check_sizes(devices: int, isl: float, osl: float, load: float | None) -> None:
    """Refuse what no run was like: such a row is unreadable, and would take minutes to simulate."""
    if devices < 1:
        raise SkippedError("num_gpus not given")
    if not (1 <= isl <= MOST_TOKENS and 1 <= osl <= MOST_TOKENS):
        raise SkippedError("isl or osl is not a number of tokens")
    if load is not None and not 0 < load <= MOST_LOAD and load != float("inf"):
        raise SkippedError("load is not a number of requests")


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    return value.strip() if isinstance(value, str) else ""


def _number(row: Row, column: str) -> float | None:
    cell = _text(row, column).replace(",", "")
    if cell == "":
        return None
    try:
        value = float(cell)
    except ValueError:
        raise SkippedError(f"{column} is not a number") from None
    if not 0 <= value < float("inf"):
        raise SkippedError(f"{column} is negative or not a number")
    return value


def _measured(row: Row, column: str) -> float | None:
    """A figure to compare with; one that cannot be read is one that is not there, and leaves the others."""
    try:
        return _number(row, column)
    except SkippedError:
        return None


def _load(row: Row) -> float | None:
    cell = _text(row, "load")
    if cell.lower() in ("inf", "infinity"):
        return float("inf")
    return _number(row, "load")


def _length(row: Row) -> tuple[float, bool]:
    """Mean prompt tokens, and whether lengths vary from request to request."""
    cell = _text(row, "isl")
    if not cell:
        raise SkippedError("isl not given")
    for dataset, mean in DATASET_ISL.items():
        if cell.lower().startswith(dataset):
            return float(mean), True
    value = _number(row, "isl")
    if not value:
        raise SkippedError("isl not given")
    return value, False


def _stated_requests(notes: str) -> int | None:
    """How many requests a run sent, where the notes say so."""
    found = re.search(r"\b(\d{2,5}) (?:requests|prompts)\b", notes)
    return int(found[1]) if found else None


def _is_sharegpt(row: Row, isl: float) -> bool:
    osl = _number(row, "osl")
    known = any(isl == prompt and output in (None, osl) for prompt, output in SHAREGPT_MEANS)
    return known or "sharegpt" in _text(row, "notes").lower()


def _metrics(row: Row, devices: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric, column, scale in (("ttft", "ttft_ms", 1e-3), ("tpot", "tpot_ms", 1e-3)):
        value = _measured(row, column)
        if value:
            found[metric] = value * scale
    per_gpu = _measured(row, "out_tok_s_gpu")
    total = _measured(row, "out_tok_s")
    if per_gpu or total:
        found["throughput"] = per_gpu or (total or 0.0) / max(devices, 1)
    if not found:
        raise SkippedError("no latency or throughput given")
    return found


@cache
def _accelerator(name: str) -> Accelerator:
    plain = re.sub(r"\(.*?\)|\?|NeuronCore-v\d", "", name).strip()
    aliases = {"DGX Spark": "GB10", "H100 NVL 94GB": "H100-NVL-94GB", "RTX PRO 6000 Blackwell Server": "rtx-pro-6000"}
    for candidate in (aliases.get(plain, plain), plain.replace(" ", "-"), plain.split(" ")[0] if plain else ""):
        try:
            return accelerator(candidate)
        except TopologyError:
            continue
    raise SkippedError(f"accelerator {name} is not in the catalog")


@cache
def _fabric(name: str, devices: int, half: bool) -> Fabric:
    """Links of the catalog cluster built of that accelerator with enough devices, else of a plain box of eight.

    The L40S pages do not state their hosts, and the catalog's constants of L40S are those of one host whose peers reach
    each other through its processors: plain PCIe switches are assumed. `half`: rows that count the cores of a chip.
    """
    if not half and name not in _PLAIN:
        for base in _PREFERRED.get(name, ()) or [each for each in list_clusters() if _first(each) == name]:
            unit = cluster(base)
            return fabric(cluster(f"{base}:{max(1, -(-devices // unit.n_devices))}"))
    document = cluster("pcie-box").document
    node = dict(document["nodes"][0])
    document = {**document, "name": f"{name}-box", "nodes": [node]}
    node["accelerator"] = name
    whole = accelerator(name)
    if half:
        core = msgspec.structs.replace(
            whole,
            name=f"{name}-core",
            peak_flops={dtype: rate / 2 for dtype, rate in whole.peak_flops.items()},
            matmul_flops={},
            source={},
            memory_bytes=whole.memory_bytes // 2,
            memory_bytes_per_s=whole.memory_bytes_per_s / 2,
        )
        document["accelerators"] = [msgspec.to_builtins(core)]
        rate = whole.scaleup_bytes_per_s
        node |= {"accelerator": core.name, "devices": devices}
        node["fabric"] = {"kind": "switch", "bandwidth_bytes_per_s": rate, "latency_s": 1e-6}
    elif devices > node["devices"]:
        node["count"] = -(-devices // node["devices"])
    if name in _PLAIN:
        unknown = msgspec.structs.replace(whole, name=f"{name}-unknown-host", source={})
        document["accelerators"] = [msgspec.to_builtins(unknown)]
        node["accelerator"] = unknown.name
    return fabric(parse_topology(document))


def _capped(row: Row, links: Fabric) -> Fabric:
    """Devices held below their TDP clock lower: power grows with the cube of the clock, so peaks with its cube root."""
    cap = re.search(r"power-capped (\d+) ?W", _text(row, "gpu"))
    device = links.accelerator
    if cap is None or not device.tdp_watts:
        return links
    share = (float(cap[1]) / device.tdp_watts) ** (1 / 3)
    slower = {dtype: rate * share for dtype, rate in device.peak_flops.items()}
    return replace(links, accelerator=msgspec.structs.replace(device, peak_flops=slower))


_PREFERRED = {"H100-SXM5-80GB": ("hgx-h100",), "A100-SXM4-80GB": ("hgx-a100",)}
_PLAIN = ("L40S",)


@cache
def _first(base: str) -> str:
    return cluster(base).accelerators[0].name


def _quantization(row: Row, name: str, engine: str, device: Accelerator) -> Quantization:
    words = _text(row, "quant").lower()
    recipe = "InferenceX" in _text(row, "source") and not device.name.startswith("H100")
    cache = "+kv8" if "fp8 kv" in words or ("skip-sw" in words) else ""
    scheme = "bf16"
    if "mxfp4" in words or ("gpt-oss" in name and "fp4" in words):
        scheme = "mxfp4"
    elif "fp4" in words:
        scheme = "nvfp4-experts" if re.search(r"deepseek|kimi|glm", name) else "nvfp4"
    elif "fp8" in words.split("kv cache")[0].replace("fp8 kv", ""):
        scheme = "fp8-ffn" if re.search(r"checkpoint (variant: )?meta\b", _text(row, "notes")) else "fp8"
    elif "int8" in words:
        scheme = "int8" if "int8 matmul" in words else "w8a16"
    elif "int4" in words or "awq" in words or "gptq" in words:
        scheme = "w4a16"
    if engine == "vllm" and recipe:
        cache = "+kv8"  # --kv-cache-dtype fp8 of the InferenceX recipes for H200 and Blackwell
    if engine == "trtllm" and scheme in ("fp8", "nvfp4", "nvfp4-experts"):
        cache = "+kv8"  # what ModelOpt checkpoints carry and the engine follows
    if engine == "trtllm" and scheme == "mxfp4" and device.architecture.startswith("Blackwell"):
        cache = "+kv8"  # kv_cache_config of the performance pages; on Hopper it stays with the checkpoint
    return quantization(scheme + cache)


def _layouts(row: Row, devices: int, graph: ModelGraph) -> tuple[tuple[Layout, ...], tuple[int, ...]]:
    if _text(row, "mode").startswith("disagg"):
        prefill, decode = _pool(row, "prefill", graph), _pool(row, "decode", graph)
        return (prefill[0], decode[0]), (prefill[1], decode[1])
    tp = _count(row, "tp")
    if tp is None:
        raise SkippedError("tp not given")
    degrees = {
        "tp": tp,
        "pp": _count(row, "pp") or 1,
        "attn_dp": _count(row, "attn_dp") or 1,
        "ep": _count(row, "ep") or 1,
        "moe_tp": _count(row, "moe_tp") or 1,
    }
    if "attention-DP/EP enabled" in _text(row, "config_status") and degrees["pp"] == 1:
        degrees |= {"tp": 1, "attn_dp": tp, "ep": tp, "moe_tp": 1}
    layout = _layout(degrees, graph)
    if devices and devices % layout.devices:
        raise SkippedError("num_gpus is not a multiple of the layout's")
    replicas = max(1, devices // layout.devices) if devices else _count(row, "replicas") or 1
    return (layout,), (replicas,)


def _pool(row: Row, phase: str, graph: ModelGraph) -> tuple[Layout, int]:
    tp, workers = _count(row, f"{phase}_tp"), _count(row, f"{phase}_workers")
    if tp is None or workers is None:
        raise SkippedError("layout of a disaggregated pool not given")
    degrees = {
        "tp": tp,
        "pp": _count(row, f"{phase}_pp") or 1,
        "attn_dp": _count(row, f"{phase}_dp") or 1,
        "ep": _count(row, f"{phase}_ep") or 1,
        "moe_tp": _count(row, f"{phase}_moe_tp") or 1,
    }
    shared = _recipe_shares_attention(row) if phase == "prefill" else None
    if shared is not None:
        ranks = degrees["tp"] * degrees["attn_dp"]
        degrees |= {"tp": 1, "attn_dp": ranks} if shared else {"tp": ranks, "attn_dp": 1}
    return _layout(degrees, graph), workers


def _recipe_shares_attention(row: Row) -> bool | None:
    """Whether the recipe of a prefill worker has data-parallel attention, where sources declare now this, now that.

    InferenceX ran DeepSeek-R1 on H200s twice by the same recipes (ishandhanani/srt-slurm, recipes/trtllm/h200:
    `enable_attention_dp` of prefill is true for prompts of 1k and false for 8k) and declared the opposite once. The
    two runs measured alike.
    """
    names = (_text(row, "gpu"), _text(row, "model"), _text(row, "engine"))
    if "InferenceX" not in _text(row, "source") or names != ("H200", "deepseek-r1", "TensorRT-LLM"):
        return None
    return {1024.0: True, 8192.0: False}.get(_number(row, "isl") or 0.0)


def _layout(degrees: dict[str, int], graph: ModelGraph) -> Layout:
    """Expert degrees follow the table where they fit the ranks, else the ranks divide the experts' width."""
    from shardwright.planner.costs.serving.shapes import has_experts

    ranks = degrees["tp"] * degrees["attn_dp"]
    if not has_experts(graph):
        degrees |= {"ep": 1, "moe_tp": 1}
    elif degrees["ep"] * degrees["moe_tp"] != ranks:
        divided = degrees["ep"] if ranks % degrees["ep"] == 0 else 1
        degrees |= {"ep": divided, "moe_tp": ranks // divided}
    try:
        return Layout(**degrees)
    except InputError as error:
        raise SkippedError("layout contradicts itself") from error


def _count(row: Row, column: str) -> int | None:
    value = _number(row, column)
    return int(value) if value else None

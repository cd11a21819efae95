"""Every efficiency and overhead of the cost models, by accelerator family, dtype and framework generation.

The numbers live in coefficients.json beside this file, with their provenance; a missing family or dtype falls back to
the nearest one and says so, so that the plan can list it under its assumptions.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import InputError
from ..workload.experts import ExpertLoad


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Kernels(_Record, frozen=True):
    """How close one accelerator family comes to its peaks at one dtype.

    A product of [m, k] and [k, n] runs at peak · gemm_fraction / ((1 + gemm_k_half / k) (1 + gemm_output_half / m n)):
    the k term is the main loop's start-up, the output term the last wave that does not fill the device. Attention runs
    at its own fraction of the 16-bit peak for heads of 128 features, halved at a context of `attention_half` tokens;
    a score's exponential takes as long as `attention_exponent_features` of its products. The batched products of
    unfused attention keep `unaligned_fraction` of their rate when a head's size is no multiple of 8. The
    vocabulary's product, one large one on its own, runs `vocabulary_factor` faster than a layer's. `host_slowdown`
    is how much longer the hosts that come with the accelerator take to issue work. `device_spread` is the standard
    deviation of one device's speed from another's of the same kind. The power fractions are of the
    rated power, while kernels run and while a device waits.
    """

    gemm_fraction: float
    gemm_k_half: float
    gemm_output_half: float
    grouped_gemm_fraction: float = 0.9
    vocabulary_factor: float = 1.0
    attention_forward_fraction: float = 0.5
    attention_backward_fraction: float = 0.4
    attention_half: float = 256.0
    attention_exponent_features: float = 64.0
    unaligned_fraction: float = 0.12
    scan_fraction: float = 0.08
    memory_fraction: float = 0.85
    host_slowdown: float = 1.0
    device_spread: float = 0.02
    busy_power_fraction: float = 0.85
    waiting_power_fraction: float = 0.4
    kernel_s: float = 3e-6
    source: str = ""


class Framework(_Record, frozen=True):
    """What one generation of training software adds or hides.

    Overlaps are the share of a transfer that can hide under the compute named: `tp` under its own GEMM (with sp
    only), `tp_backward` of input gradients under the weight's, `cp` under attention, `ep` under expert compute, `grad`
    under the last backward, `param` under the first forward, `pp` behind other micro-batches; `hidden_cost` is the
    share of a hidden data-parallel transfer that still slows the compute it hides under, by taking processors and
    memory bandwidth from it. Byte counts are per element unless said otherwise.
    Strategies that fuse tensor-parallel transfers into products hide `fused_tp_overlap` of them (FLUX, Chang et al.
    2024; T3, Pati et al. 2024); those that pair micro-batches hide expert dispatch under `pair_overlap` of a block
    (DeepSeek-V3 report, section 3.2.1).
    With `weights_by_broadcast` every rank in turn sends the weights it updated, instead of one all-gather.
    `tp_stop_s` is lost at every tensor-parallel collective for every doubling of its ranks, while streams wait for each
    other; on several scale-up domains every other tensor-parallel group of its domain delays a block by
    `tp_interference` of its compute. Collectives between scale-up domains take `crossing_slowdown` times what one alone
    takes with all NICs to itself, since every device of a domain sends at once, in groups of its own. The host takes
    `host_operator_s` to issue the forward of one operator and `host_experts_s` more to route, permute and dispatch a
    mixture's tokens, twice that in backward; with tensor parallelism each waits for the others at every collective,
    which costs `host_wait` of that for every pair of ranks.
    `attention_fraction` is the rate of this generation's flash attention relative to the accelerator's,
    `gemm_output_factor` how much more its math library lost on small products. `permute_traffic_bytes` is the device
    traffic per feature of a routed token to permute, pad and combine, `biased_activation_passes` how many times the
    traffic of a fused activation that of experts with biases is; `dispatch_by_node` sends a token once to every
    scale-up domain that needs it. `placed` is an expert placement, which no file of coefficients holds.
    """

    attention_kernel: Literal["flash", "unfused"] = "flash"
    dropout: bool = False
    attention_fraction: float = 1.0
    gemm_output_factor: float = 1.0
    host_operator_s: float = 6e-6
    host_experts_s: float = 0.0
    host_wait: float = 0.0
    step_s: float = 0.02
    elementwise_fraction: float = 0.7
    score_traffic_bytes: float = 10.0
    loss_traffic_bytes: float = 20.0
    cast_traffic_bytes: float = 5.0
    tp_overlap: float = 0.0
    tp_backward_overlap: float = 0.0
    fused_tp_overlap: float = 0.85
    pair_overlap: float = 0.8
    tp_stop_s: float = 0.0
    tp_interference: float = 0.0
    crossing_slowdown: float = 1.0
    cp_overlap: float = 0.8
    ep_overlap: float = 0.0
    grad_overlap: float = 0.8
    param_overlap: float = 0.8
    hidden_cost: float = 0.1
    pp_overlap: float = 1.0
    interleaved_pp_overlap: float = 0.7
    bucket_bytes: float = 160e6
    gradient_comm_bytes: float = 4.0
    weights_by_broadcast: bool = False
    expert_imbalance: float = 1.0
    permute_traffic_bytes: float = 8.0
    biased_activation_passes: float = 1.0
    dispatch_by_node: bool = False
    placed: ExpertLoad | None = None
    logits_bytes: float = 10.0
    saved_linear_bytes_fp8: float = 1.0
    weight_copy_bytes_fp8: float = 1.0
    allocator_fraction: float = 0.03
    workspace_bytes: float = 0.5e9
    context_bytes: float = 2.5e9
    source: str = ""


class _File(_Record, frozen=True):
    schema: Literal["shardwright.coefficients/1"]
    kernels: dict[str, dict[str, Kernels]]
    frameworks: dict[str, Framework]
    provenance: str
    nearest: dict[str, str] = {}


class Coefficients(_Record, frozen=True):
    """One set, as a cost model uses it: kernels for 16-bit and for the low-precision products, and the framework.

    `assumptions` names every value taken from another family or dtype.
    """

    kernels: Kernels
    low_precision_kernels: Kernels
    framework: Framework
    name: str
    assumptions: tuple[str, ...] = ()


@functools.cache
def _file() -> _File:
    data = Path(__file__).with_name("coefficients.json").read_bytes()
    return msgspec.json.decode(data, type=_File)


def frameworks() -> tuple[str, ...]:
    """The framework generations known, by name."""
    return tuple(sorted(_file().frameworks))


def framework_named(name: str) -> Framework:
    """The coefficients of a framework generation. Raises InputError when it is unknown."""
    found = _file().frameworks.get(name)
    if found is None:
        raise InputError(f"job.framework must be one of {', '.join(frameworks())} but got {name!r}")
    return found


def coefficients(architecture: str, dtype: str, framework: str, accelerator: str = "") -> Coefficients:
    """The set for an accelerator architecture, a job's precision and a framework generation.

    An accelerator that has kernels of its own takes them, another its architecture's, an architecture never measured
    those of the nearest one that was, or the default family's. Raises InputError when the framework is unknown.
    """
    file, generation = _file(), framework_named(framework)
    assumptions: list[str] = []
    family = accelerator.lower()
    if family not in file.kernels:
        family = architecture.lower().replace(" ", "-")
    if family not in file.kernels:
        family = file.nearest.get(family, "default")
        assumptions.append(f"no measured kernels for {architecture}: efficiencies of the {family} family are used")
    wide = "fp32" if dtype == "fp32" else "bf16"
    narrow = dtype if dtype in ("fp8", "fp4") else wide
    return Coefficients(
        kernels=_pick(file, family, wide, assumptions),
        low_precision_kernels=_pick(file, family, narrow, assumptions),
        framework=generation,
        name=f"{family}/{dtype}/{framework}",
        assumptions=tuple(assumptions),
    )


def _pick(file: _File, family: str, dtype: str, assumptions: list[str]) -> Kernels:
    by_dtype = file.kernels[family]
    if dtype in by_dtype:
        return by_dtype[dtype]
    fallback = "fp8" if dtype == "fp4" and "fp8" in by_dtype else "bf16"
    assumptions.append(
        f"no measured {dtype} kernels for {family}: the {fallback} efficiencies are used at {dtype} peak"
    )
    return by_dtype[fallback]

"""What is fitted in the training coefficients, where each starts, and how far from there would be surprising.

A place reads `kernels:FAMILY,…:DTYPE,…:FIELD` or `frameworks:NAME,…:FIELD`; every place named takes the one value.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from benchmarks.fitting import Parameter

Document = dict[str, Any]
BACKWARD_ATTENTION = 0.82
PRIOR = "prior: best measured matrix products of the accelerator catalog, published FlashAttention rates"

# Sustained share of the peak at 16, 8 and 4 bits, halving points of k and of m·n, forward attention.
_FAMILIES: dict[str, tuple[dict[str, float], float, float, float]] = {
    "default": ({"bf16": 0.65}, 160, 4e6, 0.5),
    "volta": ({"bf16": 0.65}, 64, 1.5e6, 0.4),
    "turing": ({"bf16": 0.32}, 64, 1e6, 0.3),
    "ampere": ({"bf16": 0.78}, 96, 2.5e6, 0.6),
    "ada": ({"bf16": 0.7, "fp8": 0.6}, 128, 3e6, 0.55),
    "hopper": ({"bf16": 0.7, "fp8": 0.65}, 160, 4e6, 0.6),
    "blackwell": ({"bf16": 0.65, "fp8": 0.62, "fp4": 0.5}, 200, 5e6, 0.5),
    "gb200-nvl72": ({"bf16": 0.65, "fp8": 0.62, "fp4": 0.5}, 200, 5e6, 0.5),
    "blackwell-ultra": ({"bf16": 0.68, "fp8": 0.68, "fp4": 0.5}, 200, 5e6, 0.6),
    "gb300-nvl72": ({"bf16": 0.68, "fp8": 0.68, "fp4": 0.5}, 200, 5e6, 0.6),
    "cdna2": ({"bf16": 0.7}, 128, 3e6, 0.35),
    "cdna3": ({"bf16": 0.48, "fp8": 0.45}, 160, 5e6, 0.4),
    "mi325x": ({"bf16": 0.58, "fp8": 0.5}, 160, 5e6, 0.4),
    "tpu": ({"bf16": 0.75}, 128, 1e6, 0.5),
    "trainium": ({"bf16": 0.5}, 128, 2e6, 0.4),
}
# Features of a head whose products take as long as the score's exponential: FLOPs / (4 × exponentials per second), of
# which a multiprocessor does 16 in a cycle, 32 in Blackwell Ultra.
_EXPONENTS = {"ampere": 32.0, "hopper": 64.0, "blackwell": 128.0, "gb200-nvl72": 128.0}
_NEAREST = {"cdna4": "mi325x", "inferentia": "trainium"}

# The same silicon at 500 W instead of 700 W: power goes with the cube of the clock.
_DERIVED = {"h100-sxm5-96gb-500w": ("hopper", (500 / 700) ** (1 / 3))}
_CLOCKED = ("gemm_fraction", "attention_forward_fraction", "attention_backward_fraction")

_UNFUSED: dict[str, Any] = {
    "attention_kernel": "unfused",
    "dropout": True,
    "host_operator_s": 80e-6,
    "step_s": 0.05,
    "grad_overlap": 0.0,
    "param_overlap": 0.0,
    "pp_overlap": 0.0,
    "interleaved_pp_overlap": 0.0,
    "gradient_comm_bytes": 2.0,
    "context_bytes": 6e9,
    "allocator_fraction": 0.06,
}
_LEAN: dict[str, Any] = {"context_bytes": 4e9, "allocator_fraction": 0.03}
_CORE: dict[str, Any] = {
    "tp_overlap": 0.5,
    "tp_backward_overlap": 0.9,
    "gradient_comm_bytes": 2.0,
    "host_operator_s": 12e-6,
    "host_experts_s": 1e-3,
}
_SHARDED: dict[str, Any] = {"gradient_comm_bytes": 2.0, "grad_overlap": 0.9, "param_overlap": 0.9}
# Bytes per logit of cross-entropy in fp32 by one kernel for each operation (Megatron-LM, mpu/cross_entropy.py): cast,
# maximum, subtraction, exponential, sum and division forward, product and cast backward.
_UNFUSED_LOSS_BYTES = 52.0
_FRAMEWORKS: dict[str, dict[str, Any]] = {
    "megatron-2020": _UNFUSED,
    "megatron-2021": _UNFUSED,
    "megatron-2022": _UNFUSED | {"elementwise_fraction": 0.9, "score_traffic_bytes": 8.5, "tp_backward_overlap": 0.9},
    "megatron-deepspeed-2023": _UNFUSED | {"elementwise_fraction": 0.85, "loss_traffic_bytes": _UNFUSED_LOSS_BYTES},
    "megatron-eager": _UNFUSED | {"score_traffic_bytes": 30.0, "elementwise_fraction": 0.5, "step_s": 0.01} | _LEAN,
    "deepspeed-2022": _UNFUSED,
    "megatron-2024": _CORE
    | {"logits_bytes": 6.0, "dropout": True, "workspace_bytes": 0.8e9, "attention_fraction": 0.75},
    "megatron-2025": _CORE | {"dispatch_by_node": True, "logits_bytes": 6.0, "attention_fraction": 0.9},
    "megatron-2026": _CORE | {"dispatch_by_node": True, "logits_bytes": 6.0, "attention_fraction": 0.95},
    "hai-llm": _CORE | {"dispatch_by_node": True, "logits_bytes": 6.0, "ep_overlap": 0.9, "tp_overlap": 0.0},
    "fsdp-2023": _SHARDED | {"host_operator_s": 20e-6, "attention_fraction": 0.45},
    "fsdp-2025": _SHARDED
    | {"host_operator_s": 15e-6, "attention_fraction": 0.7, "host_experts_s": 1e-3}
    | {"dispatch_by_node": True},
    "internevo": _SHARDED
    | {"host_operator_s": 20e-6, "attention_fraction": 0.9, "hidden_cost": 0.3, "weights_by_broadcast": True}
    | {"allocator_fraction": 0.3},
    "jax": _SHARDED | {"host_operator_s": 1e-6, "tp_overlap": 0.6},
    "neuron": _CORE | {"tp_overlap": 0.3, "host_operator_s": 5e-6},
}

# Generations measured where devices share NICs, and those since, on nodes with a NIC for each.
_UP_TO_2023 = ",".join(name for name, fields in _FRAMEWORKS.items() if "attention_kernel" in fields)
_SINCE = ",".join(name for name, fields in _FRAMEWORKS.items() if "attention_kernel" not in fields)
_CORES = "megatron-2024,megatron-2025,megatron-2026"
_MOES = ("megatron-2025", "megatron-2026")
_FITTED = (
    "megatron-2020",
    "megatron-2021",
    "megatron-2022",
    "megatron-deepspeed-2023",
    "megatron-eager",
    "megatron-2024",
    "megatron-2025",
    "megatron-2026",
    "fsdp-2023",
    "fsdp-2025",
    "internevo",
)
_MEASURED_DTYPES = {
    "turing": ("bf16",),
    "ampere": ("bf16",),
    "ada": ("fp8",),
    "hopper": ("bf16", "fp8"),
    "blackwell": ("bf16", "fp8", "fp4"),
    "gb200-nvl72": ("bf16", "fp8", "fp4"),
    "blackwell-ultra": ("bf16", "fp8", "fp4"),
    "gb300-nvl72": ("bf16", "fp8", "fp4"),
    "cdna3": ("fp8",),
    "mi325x": ("fp8",),
    "trainium": ("bf16",),
}
_GROUPS = ("ampere", "hopper", "blackwell,gb200-nvl72", "blackwell-ultra,gb300-nvl72")


def skeleton() -> Document:
    """The coefficients before fitting: every family, dtype and framework generation at its prior."""
    kernels = {
        family: {
            dtype: {
                "gemm_fraction": fraction,
                "gemm_k_half": k_half,
                "gemm_output_half": output_half,
                "attention_forward_fraction": attention,
                "attention_backward_fraction": attention * BACKWARD_ATTENTION,
                "attention_exponent_features": _EXPONENTS.get(family, 64.0),
                "source": PRIOR,
            }
            for dtype, fraction in fractions.items()
        }
        for family, (fractions, k_half, output_half, attention) in _FAMILIES.items()
    }
    for child, (parent, _) in _DERIVED.items():
        kernels[child] = copy.deepcopy(kernels[parent])
    frameworks = {name: copy.deepcopy(fields) | {"source": PRIOR} for name, fields in _FRAMEWORKS.items()}
    return {
        "schema": "shardwright.coefficients/1",
        "kernels": kernels,
        "frameworks": frameworks,
        "provenance": PRIOR,
        "nearest": dict(_NEAREST),
    }


def _kernel_parameters() -> list[Parameter]:
    result = []
    for family, dtypes in _MEASURED_DTYPES.items():
        for dtype in dtypes:
            prior = _FAMILIES[family][0][dtype]
            spread = 0.4 if family in ("turing", "cdna3", "mi325x", "trainium") else 0.12
            result.append(Parameter(f"kernels:{family}:{dtype}:gemm_fraction", prior, spread, high=0.95))
    for group in _GROUPS:
        family = group.split(",")[0]
        _, k_half, output_half, attention = _FAMILIES[family]
        result += [
            Parameter(f"kernels:{group}:*:gemm_k_half", k_half, 0.4, high=2000),
            Parameter(f"kernels:{group}:*:gemm_output_half", output_half, 0.4, high=5e7),
            Parameter(f"kernels:{group}:bf16:attention_forward_fraction", attention, 0.2, high=0.9),
            Parameter(f"kernels:{group}:bf16:vocabulary_factor", 1.15, 0.1, low=0.9, high=1.5),
            Parameter(f"kernels:{group}:*:device_spread", 0.02, 0.4, high=0.1),
        ]
        if family != "ampere":
            result.append(Parameter(f"kernels:{group}:bf16:grouped_gemm_fraction", 0.9, 0.15, high=1.0))
            result.append(Parameter(f"kernels:{group}:fp8,fp4:grouped_gemm_fraction", 0.8, 0.15, high=1.0))
    return [
        *result,
        Parameter("kernels:ampere:bf16:unaligned_fraction", 0.12, 0.5, high=1.0),
        Parameter("kernels:turing:bf16:vocabulary_factor", 1.15, 0.1, low=0.9, high=1.5),
        Parameter("kernels:turing:bf16:memory_fraction", 0.7, 0.2, high=0.9),
        Parameter("kernels:turing:bf16:host_slowdown", 2.0, 0.5, low=0.3, high=10.0),
        Parameter("kernels:gb200-nvl72,gb300-nvl72:*:host_slowdown", 0.6, 0.5, low=0.2, high=3.0),
        Parameter(
            "kernels:hopper,blackwell,gb200-nvl72,blackwell-ultra,gb300-nvl72:*:scan_fraction", 0.06, 0.5, high=0.5
        ),
    ]


def _framework_parameters() -> list[Parameter]:
    result = []
    for name in _FITTED:
        fields = _FRAMEWORKS[name]
        old = fields.get("attention_kernel") == "unfused"
        result += [
            Parameter(f"frameworks:{name}:host_operator_s", fields["host_operator_s"], 0.5, 1e-6, 3e-4),
            Parameter(f"frameworks:{name}:step_s", fields.get("step_s", 0.02), 1.0 if old else 0.4, 1e-4, 1.0),
            Parameter(
                f"frameworks:{name}:elementwise_fraction", fields.get("elementwise_fraction", 0.7), 0.25, 0.2, 1.0
            ),
            Parameter(f"frameworks:{name}:loss_traffic_bytes", fields.get("loss_traffic_bytes", 20.0), 0.4, 4, 120),
        ]
        if old:
            result.append(
                Parameter(f"frameworks:{name}:score_traffic_bytes", fields.get("score_traffic_bytes", 10.0), 0.3, 3, 90)
            )
            lossy = name in ("megatron-2020", "megatron-2021")
            result.append(Parameter(f"frameworks:{name}:gemm_output_factor", 3.0 if lossy else 0.7, 0.4, 0.3, 6))
            # DeepSpeed's ZeRO reduces every owner's slice by itself: the bytes that count may be more than those sent.
            result.append(Parameter(f"frameworks:{name}:gradient_comm_bytes", 2.0, 0.6, 1.5, 20))
            stop_s = 1e-4 if lossy or name == "megatron-eager" else 2.5e-5
            result.append(Parameter(f"frameworks:{name}:tp_stop_s", stop_s, 1.0, 1e-6, 3e-3))
            result.append(Parameter(f"frameworks:{name}:host_wait", 0.01, 0.5, 1e-4, 0.3))
        else:
            result.append(Parameter(f"frameworks:{name}:attention_fraction", _flash(fields), 0.2, 0.3, 1.0))
        if "fsdp" in name or name == "internevo":
            result.append(Parameter(f"frameworks:{name}:hidden_cost", fields.get("hidden_cost", 0.1), 0.7, 1e-3, 1.0))
    for name in _MOES:
        result += [
            Parameter(f"frameworks:{name}:host_experts_s", 1e-3, 0.6, 1e-5, 2e-2),
            Parameter(f"frameworks:{name}:permute_traffic_bytes", 8.0, 0.4, 2, 60),
            Parameter(f"frameworks:{name}:ep_overlap", 0.2, 0.8, share=True),
        ]
    moes = ",".join(_MOES)
    result += [
        Parameter(f"frameworks:{moes}:pair_overlap", 0.6, 0.6, share=True),
        Parameter(f"frameworks:{moes}:biased_activation_passes", 4.0, 0.5, 1.0, 12.0),
    ]
    return [
        *result,
        Parameter("frameworks:megatron-deepspeed-2023:tp_interference", 0.02, 1.0, 1e-4, 1.0),
        Parameter(f"frameworks:{_UP_TO_2023}:crossing_slowdown", 1.0, 0.5, 1.0, 5.0),
        Parameter(f"frameworks:{_SINCE}:crossing_slowdown", 1.0, 0.3, 1.0, 5.0),
        Parameter("frameworks:internevo:bucket_bytes", 160e6, 0.7, 1e6, 2e9),
        Parameter(f"frameworks:{_CORES}:cast_traffic_bytes", 5.0, 0.4, 0.5, 20),
        Parameter(f"frameworks:{_CORES}:tp_overlap", 0.5, 0.6, share=True),
        Parameter(f"frameworks:{_CORES}:interleaved_pp_overlap", 0.7, 0.6, share=True),
        Parameter(f"frameworks:{_CORES}:grad_overlap", 0.8, 0.6, share=True),
        Parameter(f"frameworks:{_CORES}:param_overlap", 0.8, 0.6, share=True),
        Parameter(f"frameworks:{_CORES}:hidden_cost", 0.1, 0.7, 1e-3, 1.0),
    ]


def _flash(fields: dict[str, Any]) -> float:
    return float(fields.get("attention_fraction", 1.0))


PARAMETERS: tuple[Parameter, ...] = (*_kernel_parameters(), *_framework_parameters())


def affects(place: str, chosen: Sequence[str]) -> bool:
    """Whether a place is part of the set (family, dtype, framework)."""
    parts = place.split(":")
    family, dtype, framework = chosen
    if parts[0] == "frameworks":
        return framework in parts[1].split(",")
    used = {"bf16", dtype if dtype in ("fp8", "fp4") else "bf16"}
    return family in parts[1].split(",") and (parts[2] == "*" or bool(used & set(parts[2].split(","))))


def written(document: Document, values: Sequence[float]) -> Document:
    """A copy of a document with every fitted place set."""
    result = copy.deepcopy(document)
    for parameter, value in zip(PARAMETERS, values, strict=True):
        for fields, field in _places(result, parameter.name):
            fields[field] = value
            if field == "attention_forward_fraction":
                fields["attention_backward_fraction"] = value * BACKWARD_ATTENTION
    for child, (parent, clock) in _DERIVED.items():
        for dtype, fields in result["kernels"][parent].items():
            scaled = {field: fields[field] * clock for field in _CLOCKED}
            result["kernels"][child][dtype] = fields | scaled
    return result


def read_value(document: Document, place: str, otherwise: float) -> float:
    """The value at a place, or the other when it is not there."""
    for fields, field in _places(document, place):
        if field in fields:
            return float(fields[field])
    return otherwise


def _places(document: Document, place: str) -> list[tuple[dict[str, Any], str]]:
    parts = place.split(":")
    if parts[0] == "frameworks":
        return [(document["frameworks"][name], parts[2]) for name in parts[1].split(",")]
    return [
        (fields, parts[3])
        for family in parts[1].split(",")
        for dtype, fields in document["kernels"][family].items()
        if parts[2] == "*" or dtype in parts[2].split(",")
    ]

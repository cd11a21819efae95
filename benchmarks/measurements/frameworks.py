"""Which generation of training software a row was measured with, and what that implies where the row is silent."""

from __future__ import annotations

import re

from .cells import Row, text

_BY_NAME: tuple[tuple[str, str], ...] = (
    (r"maxtext|t5x|pathways|\bjax\b|praxis|paxml", "jax"),
    (r"neuron", "neuron"),
    (r"torchtitan|automodel|fsdp2|torchtune|nanotron|torch\.compile|fms-fsdp", "fsdp-2025"),
    (r"composer|llm-foundry|metaseq|fairscale|fsdp1", "fsdp-2023"),
    (r"internevo|internlm", "internevo"),
    (r"v1\.1\.5", "megatron-2020"),
    (r"bigscience|jan-2021|apr-2021|mt-nlg|ptd-p|gpt-neox", "megatron-2021"),
    (r"deepspeed zero|zero-3|colossal", "deepspeed-2022"),
    (r"megascale", "megatron-2024"),
    (r"megatron-bridge.*\b(25\.1[1-9]|2[6-9]\.\d)|nemo 2[6-9]\.\d", "megatron-2026"),
    (r"megatron-bridge|nemo.*\b25\.(0[5-9]|1\d)", "megatron-2025"),
    (r"^megatron-lm/nemo$", "megatron-2025"),
    (r"nemo|megatron-core|mcore|transformer engine", "megatron-2024"),
    (r"hai-llm", "hai-llm"),
)
_BY_SOURCE: tuple[tuple[str, str], ...] = (
    (r"mt-nlg|smith et al|narayanan|bloom|sc21", "megatron-2021"),
    (r"vtrain|frontier", "megatron-deepspeed-2023"),
    (r"korthikanti", "megatron-2022"),
    (r"mlperf training v(5\.[1-9]|[6-9])", "megatron-2025"),
    (r"mlperf|llama-?3|llama 3|nemotron|megascale", "megatron-2024"),
)


def generation(row: Row) -> tuple[str, str | None]:
    """The generation's name in planner/costs/coefficients.json, and the assumption made when it was not recognized."""
    framework, source = text(row, "framework").lower(), text(row, "source").lower()
    for pattern, name in _BY_NAME:
        if re.search(pattern, framework):
            return name, None
    for pattern, name in _BY_SOURCE:
        if re.search(pattern, source):
            return name, None
    if "deepspeed" in framework:
        return "megatron-deepspeed-2023", "Megatron-DeepSpeed of unstated age: taken as of 2023"
    if "megatron" in framework:
        return "megatron-2024", "Megatron of unstated age: taken as of 2024"
    if "fsdp" in framework or "torch" in framework:
        return "fsdp-2025", "PyTorch of unstated age: taken as of 2025"
    return "megatron-2024", f"framework {text(row, 'framework') or 'not stated'}: taken as Megatron of 2024"


def shards_activations(framework: str) -> bool:
    """Whether sequence parallelism goes with tensor parallelism by default; in Megatron it is a flag of its own."""
    return framework in ("fsdp-2025", "jax", "neuron")


def default_zero(framework: str) -> int:
    """ZeRO stage where a row does not say: 1 since Megatron's distributed optimizer became the rule, 3 for FSDP."""
    if framework.startswith("fsdp") or framework == "jax":
        return 3
    return 1 if framework in ("megatron-2024", "megatron-2025", "megatron-2026", "internevo", "neuron") else 0

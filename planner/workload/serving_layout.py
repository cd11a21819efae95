"""How one copy of a model is spread over devices for inference, and in which number formats."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import InputError
from .degrees import check_degree

WeightFormat = Literal["bf16", "fp8", "int8", "int4", "nvfp4", "mxfp4"]
ComputeFormat = Literal["bf16", "fp8", "int8", "fp4"]
CacheFormat = Literal["bf16", "fp8"]

# Bytes per weight with its scales: fp8 blocks of 128x128 add 4 bytes, int4 groups of 128 a 16-bit scale and zero point,
# nvfp4 an fp8 scale per 16 weights, mxfp4 an 8-bit exponent per 32 (OCP Microscaling specification 1.0, section 5).
WEIGHT_BYTES: dict[str, float] = {
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5 + 4 / 128,
    "nvfp4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
}
CACHE_BYTES: dict[str, float] = {"bf16": 2.0, "fp8": 1.0}


class Quantization(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Number formats: of dense weights, of routed experts' weights, of products, and of the KV cache.

    `compute` is the format in which products run; weights narrower than it are widened on the way. Embedding, norms,
    router and vocabulary projection stay in bf16, as checkpoints keep them, and so do the projections of attention
    where `attention` is false.
    """

    name: str
    weights: WeightFormat = "bf16"
    experts: WeightFormat = "bf16"
    compute: ComputeFormat = "bf16"
    expert_compute: ComputeFormat = "bf16"
    cache: CacheFormat = "bf16"
    attention: bool = True

    @property
    def weight_bytes(self) -> float:
        """Bytes per dense weight."""
        return WEIGHT_BYTES[self.weights]

    @property
    def expert_bytes(self) -> float:
        """Bytes per weight of a routed expert."""
        return WEIGHT_BYTES[self.experts]

    @property
    def cache_bytes(self) -> float:
        """Bytes per cached element."""
        return CACHE_BYTES[self.cache]


QUANTIZATIONS: tuple[Quantization, ...] = (
    Quantization(name="bf16"),
    Quantization(name="fp8", weights="fp8", experts="fp8", compute="fp8", expert_compute="fp8"),
    # Meta's own fp8 checkpoints (The Llama 3 herd of models, section 6.2).
    Quantization(name="fp8-ffn", weights="fp8", experts="fp8", compute="fp8", expert_compute="fp8", attention=False),
    Quantization(name="w8a16", weights="fp8", experts="fp8"),
    Quantization(name="int8", weights="int8", experts="int8", compute="int8", expert_compute="int8"),
    Quantization(name="w4a16", weights="int4", experts="int4"),
    Quantization(name="nvfp4", weights="nvfp4", experts="nvfp4", compute="fp4", expert_compute="fp4"),
    Quantization(name="nvfp4-experts", weights="fp8", experts="nvfp4", compute="fp8", expert_compute="fp4"),
    Quantization(name="mxfp4", weights="bf16", experts="mxfp4", expert_compute="fp8"),
)


def quantization(name: str) -> Quantization:
    """The scheme of that name; `+kv8` after it keeps the KV cache in fp8. Raises InputError with the names known."""
    base, _, suffix = name.lower().partition("+")
    found = next((scheme for scheme in QUANTIZATIONS if scheme.name == base), None)
    if found is None or suffix not in ("", "kv8"):
        known = ", ".join(scheme.name for scheme in QUANTIZATIONS)
        raise InputError(f"quantization {name!r} must be one of {known}, with +kv8 for an fp8 KV cache")
    return msgspec.structs.replace(found, name=name.lower(), cache="fp8") if suffix else found


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parallel degrees of one copy of the model.

    Attention is divided by heads over `tp`, by requests over `attn_dp` and by positions over `cp`; the same ranks of a
    pipeline stage hold the routed experts as `ep` × `moe_tp`. `pp` stages follow each other. Data-parallel replicas
    are separate copies and not part of this record.

    Raises InputError when the degrees contradict each other.
    """

    tp: int = 1
    pp: int = 1
    attn_dp: int = 1
    cp: int = 1
    ep: int = 1
    moe_tp: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "attn_dp", "cp", "ep", "moe_tp"):
            check_degree(f"layout.{name}", getattr(self, name))
        if self.ep * self.moe_tp not in (1, self.stage_devices):
            raise InputError(
                f"layout.ep × moe_tp = {self.ep * self.moe_tp} must be tp × attn_dp × cp = {self.stage_devices}, "
                f"the ranks that hold the experts"
            )

    @property
    def stage_devices(self) -> int:
        """Devices of one pipeline stage."""
        return self.tp * self.attn_dp * self.cp

    @property
    def devices(self) -> int:
        """Devices of one copy of the model."""
        return self.stage_devices * self.pp

    def label(self) -> str:
        """The degrees that differ from 1: `tp4 pp2`, `dp8 ep8`."""
        parts = [("tp", self.tp), ("pp", self.pp), ("dp", self.attn_dp), ("cp", self.cp), ("ep", self.ep)]
        parts.append(("etp", self.moe_tp if self.ep > 1 or self.moe_tp != self.stage_devices else 1))
        return " ".join(f"{name}{value}" for name, value in parts if value > 1) or "tp1"


class LayoutConstraints(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Values a layout must take; an empty tuple leaves a degree free."""

    tp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    attn_dp: tuple[int, ...] = ()
    cp: tuple[int, ...] = ()
    ep: tuple[int, ...] = ()
    moe_tp: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "attn_dp", "cp", "ep", "moe_tp"):
            for value in getattr(self, name):
                check_degree(f"constraints.{name}", value)

    def allow(self, layout: Layout) -> bool:
        """Whether a layout takes the values asked for."""
        return all(
            not getattr(self, name) or getattr(layout, name) in getattr(self, name)
            for name in ("tp", "pp", "attn_dp", "cp", "ep", "moe_tp")
        )


class Speculation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Speculative decoding: `draft_tokens` proposed per step, each kept with probability `acceptance`.

    `draft_cost` is the time of one draft token as a share of the time of a step of the model (an MTP module of
    DeepSeek-V3 is one of 61 layers plus a vocabulary projection).
    """

    draft_tokens: int = 1
    acceptance: float = 0.8
    draft_cost: float = 0.03

    def __post_init__(self) -> None:
        check_degree("speculation.draft_tokens", self.draft_tokens)
        for name in ("acceptance", "draft_cost"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"speculation.{name} must be between 0 and 1 but got {value}")

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens a step yields: (1 − a^(n+1)) / (1 − a), Leviathan et al. 2023 (arXiv 2211.17192), eq. 1."""
        a, n = self.acceptance, self.draft_tokens
        return float(n + 1) if a == 1 else (1 - a ** (n + 1)) / (1 - a)

"""Facts of a configuration that no size depends on and every launcher must be told."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TypeVar

import msgspec

_Value = TypeVar("_Value", str, int, float)
_Sizes = TypeVar("_Sizes", bound=msgspec.Struct)

ACTIVATION = ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "dense_act_fn")
NORM_EPSILON = ("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "eps")
ROTARY_BASE = ("rope_theta", "rotary_emb_base", "rotary_base")
ROTARY_FRACTION = ("partial_rotary_factor", "rotary_pct")
HIDDEN_DROPOUT = ("resid_pdrop", "hidden_dropout", "hidden_dropout_prob", "resid_dropout", "dropout", "dropout_rate")
ATTENTION_DROPOUT = ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob")

# Hidden and attention dropout of transformers' configuration classes that drop where a file does not say; of the later
# decoders none does.
_DROPS_UNSAID = {
    "gpt2": (0.1, 0.1),
    "GPT2LMHeadModel": (0.1, 0.1),
    "gpt_bigcode": (0.1, 0.1),
    "GPTBigCodeForCausalLM": (0.1, 0.1),
    "opt": (0.1, 0.0),
    "OPTForCausalLM": (0.1, 0.0),
    "bert": (0.1, 0.1),
    "BertForMaskedLM": (0.1, 0.1),
    "t5": (0.1, 0.1),
    "T5ForConditionalGeneration": (0.1, 0.1),
    "T5WithLMHeadModel": (0.1, 0.1),
}
# What transformers' modeling code of a family does though no configuration says so: GPT-OSS clamps its gated products
# at 7 (GptOssExperts.limit), Nemotron-H routes by sigmoids with a correction (NemotronHTopkRouter).
_CLAMPS_UNSAID = {"gpt_oss": 7.0, "GptOssForCausalLM": 7.0}
_SIGMOID_UNSAID = ("nemotron_h", "NemotronHForCausalLM")

_STATE_SPACE = {
    "heads": ("mamba_num_heads",),
    "head_dim": ("mamba_head_dim",),
    "state": ("ssm_state_size",),
    "groups": ("n_groups", "mamba_n_groups"),
    "kernel": ("conv_kernel", "mamba_d_conv"),
}
_DELTA_RULE = {
    "key_heads": ("linear_num_key_heads",),
    "value_heads": ("linear_num_value_heads",),
    "key_dim": ("linear_key_head_dim",),
    "value_dim": ("linear_value_head_dim",),
    "kernel": ("linear_conv_kernel_dim",),
}

MAX_WHOLE = 1 << 53


class RotaryScaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How rotary positions are stretched, by the words of `rope_scaling`; None where it says nothing."""

    kind: str
    factor: float | None = None
    original_positions: int | None = None
    low_frequency_factor: float | None = None
    high_frequency_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    magnitude: float | None = None
    magnitude_all: float | None = None
    truncated: bool = True


class StateSpace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The sizes of Mamba 2 layers."""

    heads: int
    head_dim: int
    state: int
    groups: int
    kernel: int


class DeltaRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The sizes of gated delta-rule layers."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int


class LaunchFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a configuration says beside its sizes; None where it says nothing. Dropout is a probability."""

    activation: str | None = None
    norm_epsilon: float | None = None
    rotary_base: float | None = None
    rotary_fraction: float | None = None
    router_scores: str | None = None
    router_groups: int | None = None
    router_groups_per_token: int | None = None
    router_scale: float | None = None
    router_bias_correction: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    gate_clamp: float | None = None
    rotary_scaling: RotaryScaling | None = None
    state_space: StateSpace | None = None
    delta_rule: DeltaRule | None = None


def launch_facts(document: Mapping[str, object]) -> LaunchFacts:
    """The facts of a decoded Hugging Face config.json; fields of the wrong type count as absent.

    Those of a multimodal wrapper are its text model's.
    """
    text = document.get("text_config")
    if isinstance(text, Mapping):
        document = text
    rope = document.get("rope_parameters")
    nested = rope if isinstance(rope, Mapping) else {}
    scoring = document.get("scoring_func")
    names = document.get("architectures")
    kinds = [document.get("model_type"), *(names if isinstance(names, list) else ())]
    hidden, attention = next((rates for kind, rates in _DROPS_UNSAID.items() if kind in kinds), (0.0, 0.0))
    sigmoid = any(kind in kinds for kind in _SIGMOID_UNSAID)
    return LaunchFacts(
        activation=_first(document, ACTIVATION, str),
        norm_epsilon=_first(document, NORM_EPSILON, float),
        rotary_base=_first(document, ROTARY_BASE, float) or _first(nested, ROTARY_BASE, float),
        rotary_fraction=_first(document, ROTARY_FRACTION, float) or _first(nested, ROTARY_FRACTION, float),
        router_scores=scoring if isinstance(scoring, str) else "sigmoid" if sigmoid else None,
        router_groups=_first(document, ("n_group",), int),
        router_groups_per_token=_first(document, ("topk_group",), int),
        router_scale=_first(document, ("routed_scaling_factor",), float),
        router_bias_correction=sigmoid or document.get("topk_method") == "noaux_tc",
        hidden_dropout=_probability(document, HIDDEN_DROPOUT, hidden),
        attention_dropout=_probability(document, ATTENTION_DROPOUT, attention),
        gate_clamp=next((limit for kind, limit in _CLAMPS_UNSAID.items() if kind in kinds), None),
        rotary_scaling=_scaling(document),
        state_space=_sizes(StateSpace, document, _STATE_SPACE),
        delta_rule=_sizes(DeltaRule, document, _DELTA_RULE),
    )


def _scaling(document: Mapping[str, object]) -> RotaryScaling | None:
    found = document.get("rope_scaling") or document.get("rope_parameters")
    if not isinstance(found, Mapping):
        return None
    kind = found.get("rope_type", found.get("type"))
    if not isinstance(kind, str) or kind in ("default", "mrope"):  # mrope turns text as rope does
        return None
    return RotaryScaling(
        kind=kind,
        factor=_first(found, ("factor",), float),
        original_positions=_first(found, ("original_max_position_embeddings",), int),
        low_frequency_factor=_first(found, ("low_freq_factor",), float),
        high_frequency_factor=_first(found, ("high_freq_factor",), float),
        beta_fast=_first(found, ("beta_fast",), float),
        beta_slow=_first(found, ("beta_slow",), float),
        magnitude=_first(found, ("mscale",), float),
        magnitude_all=_first(found, ("mscale_all_dim",), float),
        truncated=found.get("truncate") is not False,
    )


def _sizes(kind: type[_Sizes], document: Mapping[str, object], names: Mapping[str, tuple[str, ...]]) -> _Sizes | None:
    found = {field: _first(document, spellings, int) for field, spellings in names.items()}
    return kind(**found) if None not in found.values() else None


def _probability(document: Mapping[str, object], names: tuple[str, ...], unsaid: float) -> float:
    found = _first(document, names, float)
    return found if found is not None and 0 <= found < 1 else unsaid


def _first(document: Mapping[str, object], names: tuple[str, ...], kind: type[_Value]) -> _Value | None:
    for name in names:
        value = document.get(name)
        if kind is float and isinstance(value, int) and abs(value) < MAX_WHOLE:
            value = value if isinstance(value, bool) else float(value)
        if isinstance(value, kind) and not isinstance(value, bool):
            if isinstance(value, float) and not isfinite(value):
                continue
            return value
    return None

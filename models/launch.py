"""Facts of a configuration that no size depends on and every launcher must be told."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TypeVar

import msgspec

_Value = TypeVar("_Value", str, int, float)

ACTIVATION = ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "dense_act_fn")
NORM_EPSILON = ("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon")
ROTARY_BASE = ("rope_theta", "rotary_emb_base", "rotary_base")
ROTARY_FRACTION = ("partial_rotary_factor", "rotary_pct")
HIDDEN_DROPOUT = ("resid_pdrop", "hidden_dropout", "hidden_dropout_prob", "resid_dropout", "dropout")
ATTENTION_DROPOUT = ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob")

# transformers' GPT2Config drops where a configuration does not say; the later decoders do not.
_DROPS_UNSAID = {"gpt2": 0.1, "GPT2LMHeadModel": 0.1}

MAX_WHOLE = 1 << 53


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
    unsaid = next((rate for kind, rate in _DROPS_UNSAID.items() if kind in kinds), 0.0)
    return LaunchFacts(
        activation=_first(document, ACTIVATION, str),
        norm_epsilon=_first(document, NORM_EPSILON, float),
        rotary_base=_first(document, ROTARY_BASE, float) or _first(nested, ROTARY_BASE, float),
        rotary_fraction=_first(document, ROTARY_FRACTION, float) or _first(nested, ROTARY_FRACTION, float),
        router_scores=scoring if isinstance(scoring, str) else None,
        router_groups=_first(document, ("n_group",), int),
        router_groups_per_token=_first(document, ("topk_group",), int),
        router_scale=_first(document, ("routed_scaling_factor",), float),
        router_bias_correction=document.get("topk_method") == "noaux_tc",
        hidden_dropout=_probability(document, HIDDEN_DROPOUT, unsaid),
        attention_dropout=_probability(document, ATTENTION_DROPOUT, unsaid),
    )


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

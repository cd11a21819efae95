"""Models of serving measurements by the names that sources give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from shardwright.models import ModelError, ModelGraph, list_models, model, read_config

# Models of published measurements that the catalog does not have: Qwen/Qwen3.5-397B-A17B, whose sizes (the heads of
# linear attention among them) are those that converters of its checkpoint state.
_QWEN = {
    "architectures": ["Qwen3_5MoeForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 60,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 256, "moe_intermediate_size": 1024,
    "shared_expert_intermediate_size": 1024, "num_experts": 512, "num_experts_per_tok": 10,
    "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 64, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "vocab_size": 248320, "max_position_embeddings": 262144,
    "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
MORE_MODELS = {"qwen35397b": _QWEN, "qwen35397ba17b": _QWEN}


class SkippedError(Exception):
    """A row that cannot be predicted; the message is the reason that is counted."""


@cache
def model_of(name: str) -> ModelGraph:
    """The model that a published name means. Raises SkippedError when it cannot be told."""
    plain = _plain(name)
    names = {_plain(each): each for each in list_models()}
    aliases = {"bloom176b": "bloom", "minimaxm25": "minimaxm2", "kimik25": "kimik2", "deepseekv32": "deepseekv3"}
    found = names.get(plain) or names.get(aliases.get(plain, "")) or _longest_start(plain, names)
    if found is None and plain not in MORE_MODELS:
        raise SkippedError(f"model {name} is not in the catalog")
    try:
        return model(found) if found else read_config(MORE_MODELS[plain], name=name)
    except ModelError as error:
        raise SkippedError(f"model {name}: {error}") from error


def _longest_start(plain: str, names: Mapping[str, str]) -> str | None:
    """The catalog's name that a longer one (with a date, `Instruct`, a number format) begins with."""
    rest = r"(instruct|chat|it|hf|base|fp8|fp4|nvfp4|mxfp4|bf16|awq|\d{4}|v\d+)+"
    starts = [each for each in names if plain.startswith(each) and re.fullmatch(rest, plain[len(each) :])]
    return names[max(starts, key=len)] if starts else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

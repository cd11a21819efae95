"""The model graph of a row: from the catalog when its name is known, else from the row's own sizes."""

from __future__ import annotations

import re
from functools import lru_cache

from shardwright import models
from shardwright.models import ModelError, ModelGraph, TransformerShape

from .cells import Row, UnusableError, count, number, positive, required, text

_CATALOG: dict[str, str] = {
    "llama2-7b": "llama-2-7b",
    "llama2-13b": "llama-2-13b",
    "llama2-70b": "llama-2-70b",
    "llama3-8b": "llama-3-8b",
    "llama3.1-8b": "llama-3.1-8b",
    "llama3-70b": "llama-3-70b",
    "llama3.1-70b": "llama-3.1-70b",
    "llama3.1-405b": "llama-3.1-405b",
    "llama3-405b": "llama-3.1-405b",
    "llama-34b": "codellama-34b",
    "deepseekv3": "deepseek-v3",
    "deepseekv2": "deepseek-v2",
    "nemotron-3-nano-30b-a3b": "nemotron-3-nano-30b-a3b",
    "nemotron-3-super-120b-a12b": "nemotron-3-super-120b-a12b",
}
_PLAIN = re.compile(r"gpt(?!-oss)|bloom|opt\b|opt-|mpt|mt-nlg|neox|palm|bert|starcoder|falcon|megatron|phi-?[12]")
_GATED = re.compile(r"llama|qwen|mistral|mixtral|internlm|gemma|yi\b|yi-|glm|maxtext|deepseek|baichuan|olmo")
_NO_POSITIONS = re.compile(r"bloom|mpt|neox|palm|falcon|gpt-7b-gqa")
_TIED = re.compile(r"gpt|bloom|mpt|opt|mt-nlg|palm")


def model_of(row: Row) -> tuple[ModelGraph, tuple[str, ...]]:
    """The graph and the assumptions made; raises UnusableError when the sizes are not enough or contradict the name."""
    name = text(row, "model").lower().replace(" ", "-")
    if not name and not text(row, "layers"):
        raise UnusableError("model not given")
    known = _known(name)
    if known is not None and _agrees(row, known):
        return known, ()
    if count(row, "experts") and known is None:
        return _mixture(row, name)
    return _dense(row, name)


@lru_cache
def _known(name: str) -> ModelGraph | None:
    for candidate in (_CATALOG.get(name, ""), name, re.sub(r"-(base|instruct|hf)$", "", name)):
        if candidate:
            try:
                return models.model(candidate)
            except ModelError:
                continue
    return None


def _agrees(row: Row, graph: ModelGraph) -> bool:
    """A catalog entry counts only when every size the row gives is the entry's (vocabularies may be padded)."""
    layers, hidden, vocab = count(row, "layers"), count(row, "hidden"), count(row, "vocab")
    same = layers in (None, graph.num_layers) and hidden in (None, graph.hidden_size)
    return same and (vocab is None or abs(vocab / graph.vocab_size - 1) < 0.05)


def _dense(row: Row, name: str) -> tuple[ModelGraph, tuple[str, ...]]:
    if not text(row, "layers"):
        raise UnusableError("layers not given")
    sizes = {field: required(row, field) for field in ("layers", "hidden", "heads", "ffn", "vocab")}
    kv_heads = count(row, "kv_heads") or sizes["heads"]
    assumptions = [] if text(row, "kv_heads") else ["kv_heads not given: as many as heads"]
    gated = _gated(row, name, sizes, kv_heads)
    if gated is None:
        raise UnusableError("model unknown: whether its feed-forward is gated")
    positions = not gated and not _NO_POSITIONS.search(name)
    return _build(
        name,
        tuple(assumptions),
        **sizes,
        kv_heads=kv_heads,
        gated=gated,
        norm="rms" if gated else "layer",
        bias=not gated and "mpt" not in name,
        tied=bool(_TIED.search(name)) and not gated and "gqa" not in name,
        learned_positions=positions,
        max_positions=count(row, "seq") if positions else None,
    )


def _gated(row: Row, name: str, sizes: dict[str, int], kv_heads: int) -> bool | None:
    """From the parameter count when it tells the two apart, else from the family's name."""
    billions = positive(row, "params_B")
    if billions is not None:
        hidden, heads = sizes["hidden"], sizes["heads"]
        attention = 2 * hidden * hidden * (1 + kv_heads / heads)
        counts = [
            sizes["layers"] * (attention + products * hidden * sizes["ffn"]) + tables * hidden * sizes["vocab"]
            for products, tables in ((2, 1), (2, 2), (3, 1), (3, 2))
        ]
        gaps = [abs(each / (billions * 1e9) - 1) for each in counts]
        plain, gated = min(gaps[:2]), min(gaps[2:])
        if min(plain, gated) < 0.06 and max(plain, gated) > 2 * min(plain, gated) + 0.02:
            return gated < plain
    if _PLAIN.search(name):
        return False
    return True if _GATED.search(name) else None


def _mixture(row: Row, name: str) -> tuple[ModelGraph, tuple[str, ...]]:
    """A mixture in every layer; shared experts and dense layers show as a parameter count that does not fit."""
    sizes = {field: required(row, field) for field in ("layers", "hidden", "heads", "vocab", "experts", "topk")}
    moe_ffn = count(row, "moe_ffn") or count(row, "ffn")
    billions = positive(row, "params_B")
    if moe_ffn is None or billions is None:
        raise UnusableError("mixture of experts unknown to the catalog")
    graph, assumptions = _build(
        name,
        (),
        **sizes,
        moe_ffn=moe_ffn,
        kv_heads=count(row, "kv_heads") or sizes["heads"],
        gated=True,
        norm="rms",
    )
    if abs(models.parameters(graph) / (billions * 1e9) - 1) > 0.08:
        raise UnusableError("mixture of experts unknown to the catalog")
    return graph, (*assumptions, "mixture of experts in every layer, none shared")


@lru_cache
def _cached(shape: TransformerShape, name: str) -> ModelGraph:
    return models.transformer(shape, name)


def _build(name: str, assumptions: tuple[str, ...], **sizes: object) -> tuple[ModelGraph, tuple[str, ...]]:
    try:
        return _cached(TransformerShape(**sizes), name or "unnamed"), assumptions  # type: ignore[arg-type]  # by field name
    except ModelError:
        raise UnusableError("model sizes contradict each other") from None


def sequence_of(row: Row) -> int:
    """Tokens in one sequence; raises UnusableError when not given."""
    if number(row, "seq") is None:
        raise UnusableError("seq not given")
    return required(row, "seq")

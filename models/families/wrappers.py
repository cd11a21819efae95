"""Multimodal wrappers whose text model is a known family: the text model is read, the other towers are left out."""

from __future__ import annotations

from ..fields import Fields
from ..graph import ModelGraph
from . import deepseek, gemma, hybrid, llama, llama4, mixtral


def gemma3(fields: Fields, name: str) -> ModelGraph:
    """Gemma 3 with a vision tower."""
    return gemma.gemma3(_text(fields), name)


def kimi_k25(fields: Fields, name: str) -> ModelGraph:
    """Kimi K2.5: Kimi K2 with a vision tower."""
    return deepseek.deepseek_v3(_text(fields), name)


def llama4_multimodal(fields: Fields, name: str) -> ModelGraph:
    """Llama 4 with a vision tower."""
    return llama4.llama4(_text(fields), name)


def mistral3(fields: Fields, name: str) -> ModelGraph:
    """Mistral Small 3.1 and its like."""
    return llama.mistral(_text(fields), name)


def qwen3_vl(fields: Fields, name: str) -> ModelGraph:
    """Qwen 3 with a vision tower."""
    return llama.qwen3(_text(fields), name)


def qwen3_vl_moe(fields: Fields, name: str) -> ModelGraph:
    """Qwen 3 MoE with a vision tower."""
    return mixtral.qwen3_moe(_text(fields), name)


def qwen3_5(fields: Fields, name: str) -> ModelGraph:
    """Qwen 3.5 with a vision tower."""
    return hybrid.qwen3_5(_text(fields), name)


def qwen3_5_moe(fields: Fields, name: str) -> ModelGraph:
    """Qwen 3.5 MoE with a vision tower."""
    return hybrid.qwen3_5_moe(_text(fields), name)


def _text(fields: Fields) -> Fields:
    """The inner fields; whether embeddings are tied may stand in the wrapper alone."""
    inner = fields.nested("text_config")
    fields.assume("only the text model: vision tower and projector are left out")
    if not inner.has("tie_word_embeddings") and fields.has("tie_word_embeddings"):
        inner.document = {**inner.document, "tie_word_embeddings": fields.document["tie_word_embeddings"]}
    return inner

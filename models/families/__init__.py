"""Readers of Hugging Face configurations, one file per group of families.

A reader takes the checked fields and a name and returns the graph. To add an architecture, write its reader and name
it in ARCHITECTURES and MODEL_TYPES.
"""

from __future__ import annotations

from collections.abc import Callable

from ..fields import Fields
from ..graph import ModelGraph
from . import deepseek, llama, mixtral

Reader = Callable[[Fields, str], ModelGraph]

ARCHITECTURES: dict[str, Reader] = {
    "DeepseekV2ForCausalLM": deepseek.deepseek,
    "DeepseekV3ForCausalLM": deepseek.deepseek_v3,
    "InternLMForCausalLM": llama.internlm,
    "LlamaForCausalLM": llama.llama,
    "MistralForCausalLM": llama.mistral,
    "MixtralForCausalLM": mixtral.mixtral,
    "Qwen2ForCausalLM": llama.qwen2,
    "Qwen2MoeForCausalLM": mixtral.qwen2_moe,
    "Qwen3ForCausalLM": llama.qwen3,
    "Qwen3MoeForCausalLM": mixtral.qwen3_moe,
}

MODEL_TYPES: dict[str, str] = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}

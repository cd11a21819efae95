"""Megatron-Bridge's own configuration classes and override parser, on a machine without a GPU."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.abc
import importlib.machinery
import inspect
import logging
import pkgutil
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from shardwright.models import catalog_entry
from tests.launchers import megatron_parser

# The catalog's name of each model that the published recipes read from Hugging Face. GLM 5.1 is GLM 5 trained on.
HUGGING_FACE = {
    "Qwen/Qwen3-235B-A22B": "qwen3-235b-a22b",
    "Qwen/Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Qwen/Qwen3-Next-80B-A3B-Instruct": "qwen3-next-80b-a3b",
    "Qwen/Qwen3-VL-235B-A22B-Instruct": "qwen3-235b-a22b",
    "Qwen/Qwen3-VL-30B-A3B-Instruct": "qwen3-30b-a3b",
    "Qwen/Qwen3.5-122B-A10B": "qwen3.5-122b-a10b",
    "Qwen/Qwen3.5-35B-A3B": "qwen3.5-35b-a3b",
    "Qwen/Qwen3.5-397B-A17B": "qwen3.5-397b-a17b",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "deepseek-ai/DeepSeek-V4-Flash": "deepseek-v4-flash",
    "deepseek-ai/DeepSeek-V4-Pro": "deepseek-v4-pro",
    "meta-llama/Meta-Llama-3-70B": "llama-3-70b",
    "meta-llama/Meta-Llama-3-8B": "llama-3-8b",
    "meta-llama/Meta-Llama-3.1-405B": "llama-3.1-405b",
    "moonshotai/Kimi-K2-Instruct": "kimi-k2",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": "nemotron-3-super-120b-a12b",
    "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16": "nemotron-3-ultra-550b-a55b",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "openai/gpt-oss-20b": "gpt-oss-20b",
    "zai-org/GLM-5.1": "glm-5",
    "zai-org/GLM-5.2": "glm-5.2",
}

# Kernels, checkpoints, media and dashboards, of which no configuration class has a part.
_ABSENT = (
    "transformer_engine",
    "megatron.energon",
    "nvidia_resiliency_ext",
    "peft",
    "modelopt",
    "diffusers",
    "wandb",
    "mlflow",
    "comet_ml",
    "qwen_vl_utils",
    "timm",
    "open_clip",
    "flashinfer",
    "flash_mla",
    "cudnn",
)


class _Module(megatron_parser._Absent):
    """An absent module whose classes can be inherited from."""

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if not name[0].isupper():
            return found
        import torch

        return type(name, (torch.nn.Module,), {"__init__": lambda *_, **__: None})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if any(name == each or name.startswith(f"{each}.") for each in _ABSENT):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__version__ = "2.16.0"  # type: ignore[attr-defined]


def load() -> None:
    """Make `megatron.bridge` importable. What of its dependencies is installed is used, the rest is absent."""
    megatron_parser.without_triton()
    import megatron.core.extensions.transformer_engine
    import megatron.core.models.gpt.gpt_layer_specs  # noqa: F401  (decides that there is no Transformer Engine)

    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.append(_Finder())
        logging.getLogger("megatron.bridge").setLevel(logging.CRITICAL)
        from megatron.core import utils

        utils._te_version = None  # a version read before there was one is read again


def recipe() -> Any:
    """The library's plainest recipe."""
    from megatron.bridge.recipes.gpt.h100.vanilla_gpt import vanilla_gpt_pretrain_1gpu_h100_bf16_config

    made = vanilla_gpt_pretrain_1gpu_h100_bf16_config()
    made.checkpoint.save = None
    return made


def overridden(config: Any, overrides: Sequence[str]) -> Any:
    """The recipe after the library's own `process_config_with_overrides`."""
    from megatron.bridge.training.utils.omegaconf_utils import process_config_with_overrides

    return process_config_with_overrides(config, cli_overrides=list(overrides))


def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Megatron believe in the target's device and fused kernels, which recipes switch on and change no size."""
    load()
    megatron_parser.with_transformer_engine(monkeypatch)
    import torch
    from megatron.core.models.common.embeddings import rope_utils
    from megatron.core.transformer.moe import moe_utils

    for module in (rope_utils, moe_utils):
        for name in [each for each in vars(module) if each.startswith("fused_")]:
            monkeypatch.setattr(module, name, getattr(module, name) or (lambda *_, **__: None))

    def fused_adam(
        master_weight_dtype: Any, exp_avg_dtype: Any, exp_avg_sq_dtype: Any, use_decoupled_grad: bool
    ) -> None:
        """The options that Megatron looks for in Transformer Engine's class."""

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: megatron_parser.Gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (10, 0))
    optimizers = importlib.import_module("transformer_engine.pytorch.optimizers")
    monkeypatch.setattr(optimizers, "FusedAdam", fused_adam, raising=False)


@functools.cache
def published() -> dict[str, Callable[[], Any]]:
    """The functions of the library's performance recipes, by name; their models' configurations are the catalog's."""
    load()
    import megatron.bridge.perf_recipes as package
    from megatron.bridge.models.conversion import auto_bridge

    auto_bridge.safe_load_config_with_retry = _hugging_face_config
    found: dict[str, Callable[[], Any]] = {}
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(each.name)
        if hasattr(module, "load_quantization_recipe"):  # reads a file that the wheel leaves out
            module.load_quantization_recipe = lambda _: None  # type: ignore[attr-defined]
        for name, made in vars(module).items():
            if inspect.isfunction(made) and made.__module__ == each.name and name.endswith("_config"):
                found[name] = made
    return found


def _hugging_face_config(path: object, **_: Any) -> Any:
    """What `AutoConfig.from_pretrained` would download, from the catalog's fields."""
    import transformers

    fields = copy.deepcopy(catalog_entry(HUGGING_FACE[str(path)]).config)  # transformers writes into what it reads
    architecture = fields["architectures"][0]
    if "Qwen3-VL" in str(path):
        text = {key: value for key, value in fields.items() if key != "architectures"}
        return transformers.Qwen3VLMoeConfig(text_config=text, architectures=["Qwen3VLMoeForConditionalGeneration"])
    if architecture == "GlmMoeDsaForCausalLM":
        fields["indexer_rope_interleave"] = True  # in the models' files; no size depends on it
    return getattr(transformers, architecture).config_class(**fields)

"""Megatron-Bridge's own configuration classes and override parser, on a machine without a GPU."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.launchers import megatron_parser

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


def recipe(pretrained: Path | None = None) -> Any:
    """The library's plainest recipe, with LoRA beside pretrained weights where there are some."""
    from megatron.bridge.peft.lora import LoRA
    from megatron.bridge.recipes.gpt.h100.vanilla_gpt import vanilla_gpt_pretrain_1gpu_h100_bf16_config

    made = vanilla_gpt_pretrain_1gpu_h100_bf16_config()
    made.checkpoint.save = None
    if pretrained is not None:
        made.peft = LoRA()
        made.checkpoint.pretrained_checkpoint = str(pretrained)
    return made


def overridden(config: Any, overrides: Sequence[str]) -> Any:
    """The recipe after the library's own `process_config_with_overrides`."""
    from megatron.bridge.training.utils.omegaconf_utils import process_config_with_overrides

    return process_config_with_overrides(config, cli_overrides=list(overrides))

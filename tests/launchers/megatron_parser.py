"""Megatron-LM's own argument parser and checks, run on a machine without a GPU."""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.machinery
import sys
import types
import typing
import warnings
from typing import Any

import pytest

# Kernels that this machine cannot build or run are switched off; they change no degree, size or schedule.
CPU_ONLY = [
    "--mock-data",
    "--train-iters",
    "10",
    "--lr",
    "1e-4",
    "--attention-backend",
    "flash",
    "--transformer-impl",
    "local",
    "--no-persist-layer-norm",
    "--no-masked-softmax-fusion",
    "--no-bias-swiglu-fusion",
    "--no-bias-gelu-fusion",
    "--no-bias-dropout-fusion",
    "--no-rope-fusion",
    "--no-gradient-accumulation-fusion",
]


class _Absent(types.ModuleType):
    """A module whose every attribute is a decorator that changes nothing: no kernel of it is ever launched."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()


class _Nothing:
    def __call__(self, *args: Any, **options: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) and not options else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()


def without_triton() -> None:
    """Let megatron.core and torchtitan import where triton has no build; torch must know first that it has none."""
    try:
        import triton  # noqa: F401
    except ModuleNotFoundError:
        import torch
        import torch._dynamo.utils
        import torch._inductor.runtime.hints
        import torch._inductor.runtime.triton_compat
        import torch._inductor.utils

        for name in ("triton", "triton.language", "triton.language.extra"):
            module = _Absent(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            module.__path__ = []
            module.__version__ = "3.4.0"  # type: ignore[attr-defined]
            sys.modules[name] = module
        sys.modules["triton"].language = sys.modules["triton.language"]  # type: ignore[attr-defined]
        torch.compile = lambda function=None, **_: function if function is not None else lambda inner: inner
    if not hasattr(typing, "override"):
        typing.override = lambda function: function  # type: ignore[attr-defined]


class Gpu:
    major, minor, total_memory, multi_processor_count, name = 9, 0, 80 << 30, 132, "target"


@functools.cache
def _parser() -> argparse.ArgumentParser:
    """Megatron's own parser of its thousand arguments, made once: it takes longer to make than to use."""
    from megatron.training import arguments

    return arguments.add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False))


def parse(arguments: list[str], world_size: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Megatron's parsed, validated arguments with the transformer configuration they make.

    Raises SystemExit or what Megatron raises when it refuses them.
    """
    without_triton()
    import torch

    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    monkeypatch.setenv("RANK", "0")
    if "--use-megatron-fsdp" in arguments:
        monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS", raising=False)
    else:
        monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: Gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["pretrain_gpt.py", *arguments, *CPU_ONLY])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Megatron's own, about kernels that are absent here
        from megatron.training import arguments as megatron

        whole = _parser()
        monkeypatch.setattr(megatron, "add_megatron_arguments", lambda _: whole)
        parsed = copy.deepcopy(megatron.parse_args())  # checks change lists, which may be the parser's own defaults
        megatron.validate_args(parsed, {})
        parsed.transformer = megatron.core_transformer_config_from_args(parsed)
    return parsed


def with_transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Megatron believe in the target's Transformer Engine, which fp8, fp4 and learned softmaxes ask for."""
    without_triton()
    from megatron.core.transformer import transformer_config
    from megatron.training import arguments

    for module in (transformer_config, arguments):
        monkeypatch.setattr(module, "is_te_min_version", lambda *_, **__: True)


def initialize(parsed: Any, world_size: int) -> None:
    """Make all of Megatron's groups of that many ranks, over a process group that sends nothing.

    Raises what Megatron raises when the degrees do not divide the ranks.
    """
    import torch.distributed as distributed
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=parsed.tensor_model_parallel_size,
            pipeline_model_parallel_size=parsed.pipeline_model_parallel_size,
            context_parallel_size=parsed.context_parallel_size,
            expert_model_parallel_size=parsed.expert_model_parallel_size,
            expert_tensor_parallel_size=parsed.expert_tensor_parallel_size,
            create_gloo_process_groups=False,
        )
    finally:
        parallel_state.destroy_model_parallel()
        distributed.destroy_process_group()


def rank_groups(parsed: Any) -> dict[str, list[list[int]]]:
    """The groups of Megatron's own rank generators, made as its `initialize_model_parallel` makes them."""
    from megatron.core.parallel_state import RankGenerator

    order = "tp-cp-ep-pp-dp" if parsed.use_tp_pp_dp_mapping else "tp-cp-ep-dp-pp"
    tp, pp, cp = (
        parsed.tensor_model_parallel_size,
        parsed.pipeline_model_parallel_size,
        parsed.context_parallel_size,
    )
    ep, etp = parsed.expert_model_parallel_size, parsed.expert_tensor_parallel_size
    dense = RankGenerator(tp=tp, ep=1, dp=parsed.data_parallel_size, pp=pp, cp=cp, order=order)
    edp = parsed.world_size // (etp * ep * pp)
    expert = RankGenerator(tp=etp, ep=ep, dp=edp, pp=pp, cp=1, order=order)
    found = {axis: dense.get_ranks(axis) for axis in ("tp", "cp", "dp", "pp")}
    return found | {"etp": expert.get_ranks("tp"), "ep": expert.get_ranks("ep"), "edp": expert.get_ranks("dp")}

"""Megatron-LM's real model of one rank under PyTorch's FakeTensor mode: every shape, no storage, no other rank.

What a GPU's fused kernels keep for backward is kept here by three functions in their place: a norm (its contiguous
input and one statistic a row, as Transformer Engine's and Apex's), flash attention (contiguous queries, keys and
values, the output, one statistic a row) and rotary positions (the angles). All else is Megatron's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn


class _FusedRmsNorm(torch.autograd.Function):
    """Keeps its input and one fp32 statistic a row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


class _Flash(torch.autograd.Function):
    """Keeps what FlashAttention's backward reads (Dao et al. 2022, algorithm 4): Q, K, V, O and log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = v.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _Rotated(torch.autograd.Function):
    """Keeps the angles, which all layers share."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(angles)
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.empty_like(gradient), None


class FusedNorm(nn.Module):
    """RMSNorm as Megatron's specifications call one."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _FusedRmsNorm.apply(x.contiguous(), self.weight)


class FlashAttention(nn.Module):
    """Core attention as Megatron's specifications call one; context ranks keep their own part of keys and values."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return _Flash.apply(query.contiguous(), key.contiguous(), value.contiguous()).flatten(2)


class _Stream:
    """Work in order, as on a machine of one stream."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, _: Any) -> None: ...


class _NoFp8:
    """What recomputation asks before it runs a module."""

    @staticmethod
    def is_fp8_enabled() -> bool:
        return False


class _Even:
    """As many tokens for every expert, which a fake tensor cannot say."""

    def __init__(self, tokens: int, experts: int) -> None:
        self.counts = [tokens // experts] * experts

    def tolist(self) -> list[int]:
        return self.counts


@dataclass(frozen=True)
class States:
    """Bytes of one rank's weights, gradients and optimizer states."""

    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True)
class Activations:
    """Bytes that forwards of some micro-batches keep for backward, and the most while they run."""

    kept: int
    peak: int


@contextmanager
def rank_of(world: int, rank: int, parsed: Any, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """One rank of Megatron's parallel state over a fake process group; the device that Megatron asks for is the CPU."""
    import torch.distributed as distributed
    from megatron.core import parallel_state
    from megatron.core.models.common.embeddings import rotary_pos_embedding
    from megatron.core.models.gpt import gpt_layer_specs
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer import attention, multi_latent_attention
    from megatron.core.transformer.moe import experts
    from torch.testing._internal.distributed.fake_pg import FakeStore

    class Backend(gpt_layer_specs.LocalSpecProvider):
        def layer_norm(self, *_: Any, **__: Any) -> type:
            return FusedNorm

        def core_attention(self) -> type:
            return FlashAttention

    patch.setattr(gpt_layer_specs, "LocalSpecProvider", Backend)
    forward = experts.SequentialMLP.forward
    patch.setattr(
        experts.SequentialMLP,
        "forward",
        lambda self, x, _, probs: forward(self, x, _Even(len(x), self.num_local_experts), probs),
    )
    patch.setattr(torch.cuda, "Stream", _Stream)
    patch.setattr(torch.cuda, "current_stream", lambda *_: _Stream())
    patch.setattr(torch.cuda, "stream", lambda *_: nullcontext())
    patch.setattr(torch.cuda, "current_device", lambda: torch.device("cpu"))
    for module in (attention, multi_latent_attention):
        patch.setattr(module, "apply_rotary_pos_emb", lambda x, angles, *_, **__: _Rotated.apply(x, angles))
    # Of Transformer Engine, without which Megatron does not define them.
    patch.setattr(random, "FP8GlobalStateManager", _NoFp8, raising=False)
    patch.setattr(random, "activation_recompute_forward", lambda **_: nullcontext(), raising=False)
    patch.setattr(random, "_get_all_rng_states", lambda: ())
    patch.setattr(random, "_set_all_rng_states", lambda *_: None)
    patch.setattr(random.CudaRNGStatesTracker, "fork", lambda *_: nullcontext())  # nothing is drawn
    part = parsed.context_parallel_size  # the real one pins host memory, which needs a GPU
    patch.setattr(
        rotary_pos_embedding, "get_pos_emb_on_this_cp_rank", lambda e, d, _: e.narrow(d, 0, e.shape[d] // part)
    )
    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=parsed.tensor_model_parallel_size,
            pipeline_model_parallel_size=parsed.pipeline_model_parallel_size,
            context_parallel_size=parsed.context_parallel_size,
            expert_model_parallel_size=parsed.expert_model_parallel_size,
            expert_tensor_parallel_size=parsed.expert_tensor_parallel_size,
            create_gloo_process_groups=False,
        )
        yield
    finally:
        parallel_state.destroy_model_parallel()
        distributed.destroy_process_group()


def model_of(parsed: Any) -> nn.Module:
    """This rank's stage of the real GPT model, in 16 bits; to be called in FakeTensor mode."""
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    from megatron.core.models.gpt.gpt_model import GPTModel

    config = parsed.transformer
    config.perform_initialization = False
    layers = get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization=config.normalization)
    return GPTModel(
        config,
        replace(layers, layer_norm=FusedNorm),
        vocab_size=parsed.vocab_size,
        max_sequence_length=parsed.seq_length,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=not parsed.untie_embeddings_and_output_weights,
        position_embedding_type="rope",
        rotary_base=parsed.rotary_base,
    )


def states_of(parsed: Any, patch: pytest.MonkeyPatch) -> States:
    """Bytes of this rank after a step of Megatron's own gradient buffers and distributed optimizer."""
    import torch.distributed as distributed
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer, optimizer
    from torch._subclasses.fake_tensor import FakeTensorMode

    kind = torch.Tensor.type
    patch.setattr(torch.Tensor, "type", lambda x, *given: (given and kind(x, *given)) or f"torch.cuda.{kind(x)[6:]}")
    patch.setattr(
        distributed, "all_gather_object", lambda out, each, *_, **__: out.__setitem__(slice(None), [each] * len(out))
    )
    patch.setattr(optimizer.ChainedOptimizer, "get_grad_norm", lambda _: 0.0)
    patch.setattr(_ParamAndGradBucketGroup, "start_param_sync", lambda *_, **__: None)
    with FakeTensorMode():
        model = model_of(parsed)
        options = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
        whole = DistributedDataParallel(parsed.transformer, options, model)
        settings = OptimizerConfig(optimizer="adam", lr=1e-4, bf16=True, clip_grad=0.0, use_distributed_optimizer=True)
        made = get_megatron_optimizer(settings, [whole], use_gloo_process_groups=False)
        made.step()
        held = 0
        for each in made.chained_optimizers:
            masters = [weight for group in each.optimizer.param_groups for weight in group["params"]]
            moments = [x for weight in masters for x in each.optimizer.state[weight].values() if torch.is_tensor(x)]
            held += sum(x.numel() * x.element_size() for x in [*masters, *moments])
        return States(
            weights=sum(weight.numel() * weight.element_size() for weight in model.parameters()),
            gradients=sum(
                part.grad_data.untyped_storage().nbytes() for part in [*whole.buffers, *whole.expert_parallel_buffers]
            ),
            optimizer=held,
        )


def activations_of(parsed: Any, microbatches: int) -> Activations:
    """Bytes that this rank keeps of so many micro-batches, by PyTorch's memory tracker.

    Megatron's one buffer for gathered sequences is left out: it is there once, whatever is kept.
    """
    from megatron.core import parallel_state
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType

    tokens = parsed.seq_length // parsed.context_parallel_size
    shape = (parsed.micro_batch_size, tokens)
    part = parsed.tensor_model_parallel_size if parsed.sequence_parallel else 1
    hidden = (tokens // part, parsed.micro_batch_size, parsed.hidden_size)
    with FakeTensorMode():
        model = model_of(parsed)
        ids, positions = torch.zeros(shape, dtype=torch.long), torch.arange(tokens).expand(shape)
        tracker = MemTracker()
        tracker.track_external(model)
        kept = []
        with tracker:
            for _ in range(microbatches):
                tracker.reset_mod_stats()
                if not model.pre_process:
                    model.set_input_tensor(torch.zeros(hidden, dtype=torch.bfloat16, requires_grad=True))
                kept.append(model(ids, positions, None, labels=ids).grad_fn)
            [now] = tracker.get_tracker_snapshot().values()
            [most] = tracker.get_tracker_snapshot("peak").values()
            buffer = sum(
                x.untyped_storage().nbytes() for x in parallel_state.get_global_memory_buffer().buffer.values()
            )
    return Activations(kept=now[_MemRefType.ACT] - buffer, peak=most[_MemRefType.ACT] - buffer)

"""What follows from a model graph: parameters, cache and state bytes, FLOPs and activation bytes.

Shardings round up: each figure is that of the fullest rank. `pp` divides the layers of each stack in chain order into
stages as equal in number as possible, fuller ones first, and the heaviest stage counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from .errors import ModelError
from .graph import Block, ModelGraph, Stack
from .operators import Attention, Linear, Scan

Direction = Literal["forward", "backward", "both"]
Recompute = Literal["none", "selective", "full"]


def parameters(model: ModelGraph, *, mtp: bool = False) -> int:
    """Weights of the model, tied ones once; `mtp` adds the multi-token-prediction modules."""
    return sum(run.repeat * run.block.parameters for run in model.runs if mtp or run.block.role != "mtp")


def active_parameters(model: ModelGraph, *, mtp: bool = False) -> int:
    """Weights that one token is multiplied with: the vocabulary projection counts, look-up tables do not.

    Of an encoder–decoder model it is what a token of the source and a token of the target pass through together.
    """
    return sum(run.repeat * run.block.active_parameters for run in model.runs if mtp or run.block.role != "mtp")


def kv_bytes_per_token(
    model: ModelGraph, *, tp: int = 1, cp: int = 1, pp: int = 1, dtype_bytes: float = 2, context: int | None = None
) -> float:
    """KV cache per token of a sequence on the fullest rank.

    KV heads are divided over tp and copied beyond their number; an MLA latent is copied to every tp rank; cp divides
    the tokens of a sequence. Without a `context` every layer caches every token; with one, a sliding window caches
    its window only, and the mean over the context is returned.
    """
    _check(tp=tp, cp=cp, pp=pp, dtype_bytes=dtype_bytes)
    if context is not None:
        _check(context=context)

    def cached(block: Block) -> float:
        return sum(
            op.cached_elements_per_rank(tp) * (1 if context is None else op.cached_tokens(context) / context)
            for op in block.operators
            if isinstance(op, Attention)
        )

    return _heaviest_stage(model, pp, cached) * dtype_bytes / cp


def cross_kv_bytes_per_token(model: ModelGraph, *, tp: int = 1, pp: int = 1, dtype_bytes: float = 2) -> float:
    """KV cache of cross attention per token of the encoder's output, on the fullest rank; 0 without an encoder."""
    _check(tp=tp, pp=pp, dtype_bytes=dtype_bytes)

    def cached(block: Block) -> float:
        return sum(op.context_elements_per_rank(tp) for op in block.operators if isinstance(op, Attention) and op.cross)

    return _heaviest_stage(model, pp, cached) * dtype_bytes


def state_bytes_per_sequence(model: ModelGraph, *, tp: int = 1, pp: int = 1, dtype_bytes: float = 2) -> float:
    """Recurrent and convolution state of one sequence on the fullest rank; 0 for a model of attention only."""
    _check(tp=tp, pp=pp, dtype_bytes=dtype_bytes)

    def state(block: Block) -> float:
        return sum(op.state_elements_per_rank(tp) for op in block.operators if isinstance(op, Scan))

    return _heaviest_stage(model, pp, state) * dtype_bytes


def flops_per_token(
    model: ModelGraph,
    sequence: int,
    *,
    direction: Direction = "forward",
    source_sequence: int | None = None,
    mtp: bool = False,
) -> float:
    """FLOPs per token of a training sequence of that length, attention counted over the tokens it really attends to.

    Backward is twice forward: one product for the gradient of the input, one for that of the weight (Korthikanti et
    al. 2022, appendix A). For an encoder–decoder model it is the whole pair of sequences over the target's tokens;
    `source_sequence` defaults to `sequence`.
    """
    source = sequence if source_sequence is None else source_sequence
    _check(sequence=sequence, source_sequence=source)
    total = 0.0
    encoder = any(run.stack == "encoder" for run in model.runs) and any(run.stack == "decoder" for run in model.runs)
    for run in model.runs:
        if run.block.role == "mtp" and not mtp:
            continue
        on_source = encoder and run.stack == "encoder"
        length = source if on_source else sequence
        share = source / sequence if on_source else 1.0
        total += run.repeat * share * block_flops_per_token(run.block, length, source_sequence=source)
    return total * {"forward": 1, "backward": 2, "both": 3}[direction]


def block_flops_per_token(block: Block, sequence: int, *, source_sequence: int | None = None) -> float:
    """Forward FLOPs of one instance of a block, per token of its own sequence."""
    source = sequence if source_sequence is None else source_sequence
    total = 0.0
    for op in block.operators:
        share = source / sequence if isinstance(op, Linear) and op.source else 1.0
        if op.source_tokens:
            share = op.source_tokens / sequence
        total += share * op.flops_per_token
        if isinstance(op, Attention):
            context = float(source) if op.cross and not op.source_tokens else op.mean_context(sequence)
            total += op.flops_per_token_and_context * context
    return total


def activation_bytes_per_token(
    model: ModelGraph,
    *,
    tp: int = 1,
    sp: bool = False,
    recompute: Recompute = "none",
    dtype_bytes: float = 2,
    score_sequence: int | None = None,
) -> float:
    """Activations kept from forward for backward, per token, on one tp rank, all blocks but MTP modules together.

    See `block_activation_bytes_per_token`. Of an encoder–decoder model it is one token of each, of a model with a
    source of a fixed length one of the sequence's own, that source left out.
    """
    _check(tp=tp, dtype_bytes=dtype_bytes)
    return sum(
        run.repeat
        * block_activation_bytes_per_token(
            run.block, tp=tp, sp=sp, recompute=recompute, dtype_bytes=dtype_bytes, score_sequence=score_sequence
        )
        for run in model.runs
        if run.block.role != "mtp"
    )


def block_activation_bytes_per_token(
    block: Block,
    *,
    tp: int = 1,
    sp: bool = False,
    recompute: Recompute = "none",
    dtype_bytes: float = 2,
    score_sequence: int | None = None,
) -> float:
    """Activations that one instance of a block keeps per token on one tp rank, without dropout masks.

    Each operator keeps its inputs, as in table 2 of Korthikanti et al., "Reducing Activation Recomputation in Large
    Transformer Models" (2022). Attention is fused (no score matrix kept) unless `score_sequence` gives the sequence
    length of an unfused one: then 2 × dtype_bytes + 1 bytes per head and attended token (softmax, its dropout and
    mask), which `selective` recomputation saves. `full` keeps a layer's input only.
    """
    if recompute == "full" and block.role in ("layer", "mtp"):
        first = next((op.saved_elements for op in block.operators if op.saved_elements), 0)
        return dtype_bytes * (-(-first // tp) if sp else first)
    own = (op for op in block.operators if isinstance(op, Attention) or not op.source_tokens)
    total = dtype_bytes * sum(op.saved_elements_per_rank(tp, sp) for op in own)
    if score_sequence is not None and recompute == "none":
        heads = sum(-(-op.heads // tp) for op in block.operators if isinstance(op, Attention))
        total += (2 * dtype_bytes + 1) * heads * score_sequence
    return total


def _heaviest_stage(model: ModelGraph, pp: int, weigh: Callable[[Block], float]) -> float:
    return max(sum(weigh(block) for block in stage) for stage in _stages(model, pp))


def _stages(model: ModelGraph, pp: int) -> Iterator[tuple[Block, ...]]:
    """The layers of each of pp stages, every stack divided by itself."""
    chains = [_chain(model, stack) for stack in ("encoder", "decoder")]
    longest = max(len(chain) for chain in chains)
    if pp > longest:
        raise ModelError(f"pp must be at most the {longest} layers of {model.name} but got {pp}")
    for stage in range(pp):
        yield tuple(block for chain in chains for block in _part(chain, stage, pp))


def _chain(model: ModelGraph, stack: Stack) -> tuple[Block, ...]:
    return tuple(
        run.block for run in model.runs if run.stack == stack and run.block.role == "layer" for _ in range(run.repeat)
    )


def _part(chain: tuple[Block, ...], stage: int, pp: int) -> tuple[Block, ...]:
    small, fuller = divmod(len(chain), pp)
    start = stage * small + min(stage, fuller)
    return chain[start : start + small + (stage < fuller)]


def _check(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ModelError(f"{name} must be positive but got {value}")

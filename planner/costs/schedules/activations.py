"""Activations that each pipeline rank holds while a schedule runs; they depend on the order alone, never on times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .orders import Op, stage_of

if TYPE_CHECKING:
    from .walk import Program

Ints = NDArray[np.int64]


def held(order: Sequence[tuple[Op, ...]], chunks: int = 2) -> tuple[Ints, Ints]:
    """Micro-batches of every chunk that a rank holds during each of its slots, shape [slots, chunks] each.

    First those whose forward has begun and whose backward has not ended; then those whose input gradient is done and
    whose weight gradient is not.
    """
    chunks = max(chunks, 1 + max(op.chunk for slot in order for op in slot))
    activation = np.zeros((len(order) + 1, chunks), dtype=np.int64)
    weight = np.zeros_like(activation)
    for i, slot in enumerate(order):
        for kind, _, chunk in slot:
            if kind == "F":
                activation[i, chunk] += 1
            elif kind == "W":
                weight[i + 1, chunk] -= 1
            else:
                activation[i + 1, chunk] -= 1
                weight[i + 1, chunk] += kind == "B"
    return activation.cumsum(axis=0)[:-1], weight.cumsum(axis=0)[:-1]


def peak_activation_bytes(
    program: Program, activation_bytes: ArrayLike, weight_grad_bytes: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Bytes of activations every rank holds at its worst moment, shape [..., pp].

    `activation_bytes` are those of one micro-batch on every virtual stage, shape [..., stages];
    `weight_grad_bytes` what of them stays until the weight gradient is done, where the schedule splits the backward:
    by default all (Qi et al. 2024, Sec. 2.3: M_B and M_W).
    """
    activation = np.asarray(activation_bytes, dtype=np.float64)
    weight = activation if weight_grad_bytes is None else np.asarray(weight_grad_bytes, dtype=np.float64)
    peaks = []
    for rank, order in enumerate(program.orders):
        begun, due = held(order)
        chunks = sorted({op.chunk for slot in order for op in slot})
        stages = [stage_of(program.schedule, program.pp, rank, chunk) for chunk in chunks]
        both = np.unique(np.concatenate([begun[:, chunks], due[:, chunks]], axis=1), axis=0)
        bytes_each = np.concatenate([activation[..., stages], weight[..., stages]], axis=-1)
        peaks.append((bytes_each @ both.T).max(axis=-1))
    return np.stack(peaks, axis=-1)

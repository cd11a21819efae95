"""Makespan and activations in flight of every schedule in closed form, for equal stages and boundaries.

Every formula is the length of the critical path of the event walk, as a maximum over the few paths that can be
critical, and tests compare the two. Symbols as in the papers: F, B, W seconds of the forward, the input gradient and
the weight gradient of one micro-batch on one virtual stage, `up` and `down` the transfers of gradients and
activations between neighbours. All arguments are numbers or arrays that broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...strategy import Schedule
from .orders import check_shape, chunks_per_rank
from .walk import BoundaryTimes, StageTimes, compile_schedule, walk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EqualTimes:
    """Seconds of one micro-batch on each virtual stage and over each boundary, the same for all of them.

    `pair_s` is the time of a forward overlapped with a backward (DualPipe's F&B), by default their sum. In ZB-V the
    boundary between the two chunks of the last rank costs nothing.
    """

    forward_s: ArrayLike
    input_grad_s: ArrayLike
    weight_grad_s: ArrayLike
    send_activation_s: ArrayLike = 0.0
    send_gradient_s: ArrayLike = 0.0
    pair_s: ArrayLike | None = None


@dataclass(frozen=True, slots=True)
class _Symbols:
    """The arguments of one call, broadcast to one flat shape."""

    pp: Ints
    m: Ints
    vpp: Ints
    F: Floats
    B: Floats
    W: Floats
    down: Floats
    up: Floats
    pair: Floats


def makespan_s(
    schedule: Schedule, times: EqualTimes, pp: ArrayLike, microbatches: ArrayLike, vpp: ArrayLike = 1
) -> Floats:
    """Seconds from the first forward to the end of the last backward, exact for equal stages.

    Where no closed form is known to hold (see `_holds`) the event walk is run instead, once per distinct pp,
    micro-batch count and vpp. Raises InputError when the schedule cannot run with these sizes.
    """
    symbols, shape = _symbols(times, pp, microbatches, vpp)
    for sizes in np.unique(np.column_stack([symbols.pp, symbols.vpp, symbols.m]), axis=0).tolist():
        check_shape(schedule, *sizes)
    result = _closed_form(schedule, symbols)
    walked = np.flatnonzero(~_holds(schedule, symbols))
    if walked.size:
        result[walked] = _walked(schedule, symbols, walked)
    return result.reshape(shape)


def makespan_bound_s(
    schedule: Schedule, times: EqualTimes, pp: ArrayLike, microbatches: ArrayLike, vpp: ArrayLike = 1
) -> Floats:
    """A lower bound on `makespan_s` without any walk and without checks: its value wherever the closed form holds.

    It is the length of a path that the walk has too. With fewer than 2·pp - 1 micro-batches ZB-V's is that of the last
    rank's wait and work, or of one micro-batch's way down and back.
    """
    symbols, shape = _symbols(times, pp, microbatches, vpp)
    return _closed_form(schedule, symbols).reshape(shape)


def chunks_in_flight(
    schedule: Schedule,
    rank: ArrayLike,
    pp: ArrayLike,
    microbatches: ArrayLike,
    vpp: ArrayLike = 1,
    *,
    until_weight_gradient: bool = False,
) -> Ints:
    """Most activations a rank holds at once, in micro-batches of one virtual stage.

    An activation is held until the input gradient is done, or the weight gradient where asked; without splitting the
    two are one. GPipe m; 1F1B min(m, pp - rank); interleaved 2(pp - rank - 1) + (vpp - 1)pp + 1 (Megatron-LM's warm-up
    and one more); ZB-H1 pp on every rank with the weight gradients (Qi et al. 2024, Sec. 2.3); ZB-V 2·pp half stages
    (Sec. 6); DualPipe pp + 1 (DeepSeek-V3, Table 2).
    """
    r, p, m, v = np.broadcast_arrays(*(np.asarray(x, dtype=np.int64) for x in (rank, pp, microbatches, vpp)))
    if schedule == "gpipe":
        return m.copy()
    if schedule == "interleaved":
        return np.asarray(np.minimum(m * v, 2 * (p - r - 1) + (v - 1) * p + 1))
    if schedule == "zb-v":
        return np.asarray(np.minimum(2 * p, np.minimum(m, 2 * p - r) + np.minimum(m, r + 1)))
    if schedule == "dualpipe":
        return np.asarray(p + 1)
    return np.asarray(np.minimum(m, p if schedule == "zb-h1" and until_weight_gradient else p - r))


def _symbols(
    times: EqualTimes, pp: ArrayLike, microbatches: ArrayLike, vpp: ArrayLike
) -> tuple[_Symbols, tuple[int, ...]]:
    numbers = (times.forward_s, times.input_grad_s, times.weight_grad_s, times.send_activation_s, times.send_gradient_s)
    F, B, W, down, up = (np.asarray(x, dtype=np.float64) for x in numbers)
    pair = F + B + W if times.pair_s is None else np.asarray(times.pair_s, dtype=np.float64)
    sizes = [np.asarray(x, dtype=np.int64) for x in (pp, microbatches, vpp)]
    shape = np.broadcast_shapes(*(x.shape for x in (*sizes, F, B, W, down, up, pair)))
    whole: list[Ints] = [np.broadcast_to(x, shape).ravel() for x in sizes]
    real: list[Floats] = [np.broadcast_to(x, shape).ravel() for x in (F, B, W, down, up, pair)]
    return _Symbols(whole[0], whole[1], whole[2], *real), shape


def _closed_form(schedule: Schedule, s: _Symbols) -> Floats:
    forms: dict[Schedule, Callable[[_Symbols], Floats]] = {
        "gpipe": _gpipe,
        "1f1b": _one_forward_one_backward,
        "interleaved": _interleaved,
        "zb-h1": _zb_h1,
        "zb-v": _zb_v,
        "dualpipe": _dualpipe,
    }
    return np.asarray(forms[schedule](s), dtype=np.float64)


def _gpipe(s: _Symbols) -> Floats:
    """All forwards, then all backwards: each phase pays its fill once (GPipe, Sec. 2.3)."""
    return (s.m + s.pp - 1) * (s.F + s.B + s.W) + (s.pp - 1) * (s.down + s.up)


def _largest(*paths: Floats | float) -> Floats:
    return np.asarray(reduce(np.maximum, paths))


def _round_trip_hops(s: _Symbols) -> Ints:
    """Hops of the extra round trips that 1F1B's critical path makes: a whole one, pp - 1 hops, per pp micro-batches.

    From the end of a backward on rank r the next forward there and its backward, pp - r micro-batches later, go down
    to the last rank and come back: pp - r micro-batches gain pp - r - 1 hops each way. The longest path strings
    together as few and as long trips as fit in m - 1 micro-batches (Pipette, DATE'24: the hidden critical path).
    """
    return s.m - 1 - -(-(s.m - 1) // s.pp)


def _one_forward_one_backward(s: _Symbols) -> Floats:
    hops = s.pp - 1 + _round_trip_hops(s)
    return (s.m + s.pp - 1) * (s.F + s.B + s.W) + hops * (s.down + s.up)


def _interleaved(s: _Symbols) -> Floats:
    """m·vpp slots and pp - 1 of fill and drain (SC21, Sec. 2.2), and what the transfers can stretch.

    Of every pp·vpp slots but the first group's, pp·(vpp - 1) wrap around the ring of ranks: there the path may take a
    transfer instead of the other direction's compute, so that a ring of short chunks waits for its slower direction.
    """
    backward = s.B + s.W
    wrap = s.pp * (s.vpp - 1) * (s.m // s.pp - 1)
    return (
        (s.m * s.vpp + s.pp - 1) * (s.F + backward)
        + (s.vpp * s.pp - 1) * (s.down + s.up)
        + wrap * _largest(0.0, s.down - backward, s.up - s.F)
    )


def _zb_h1(s: _Symbols) -> Floats:
    """m(F + B + W) + (pp - 1)·max(F + B - W, F, B) without transfers (Qi et al. 2024, Table 1, for B, F ≤ F + B - W).

    The three paths drain through the last rank's weight gradients, through the first rank's, or through neither; on
    the latter two, 1F1B's round trips replace weight gradients where transfers take longer.
    """
    fill = s.pp - 1
    full = np.minimum(s.m, s.pp)
    trips = _round_trip_hops(s)
    first = np.minimum(trips, full - 1)
    transfer = s.down + s.up
    stretch = (trips - first) * _largest(0.0, transfer - s.W)
    up_drain = (s.pp - full) * s.F + fill * s.B
    down_fill = fill * s.F + (s.pp - full) * s.B + first * s.down + (first - (full - 1)) * s.up + stretch
    both = fill * (s.F + s.B) - (full - 1) * s.W + first * transfer + stretch
    return s.m * (s.F + s.B + s.W) + fill * transfer + _largest(up_drain, down_fill, both)


def _zb_v(s: _Symbols) -> Floats:
    """2m(F + B + W) and the longest of the fourteen ways to fill and drain; F, B, W are those of half a stage.

    With F = B = W and no transfers that is pp - 1 halves: one fill, and no bubble else (Qi et al. 2024, Sec. 6).
    Rows: operations F, B, W and transfers down, up beyond the work, as multiples of (pp - 1, 1).
    """
    p = s.pp - 1
    paths: Floats = np.full(s.pp.shape, -np.inf)
    for f, b, w, down, up in _ZB_V_PATHS:
        path = (
            (f[0] * p + f[1]) * s.F
            + (b[0] * p + b[1]) * s.B
            + (w[0] * p + w[1]) * s.W
            + (down[0] * p + down[1]) * s.down
            + (up[0] * p + up[1]) * s.up
        )
        paths = _largest(paths, path)
    work = 2 * s.m * (s.F + s.B + s.W)
    last_rank = work + p * (s.F + s.down)
    one_microbatch = 2 * s.pp * (s.F + s.B) + 2 * p * (s.down + s.up) + s.W
    few = _largest(last_rank, one_microbatch)
    return np.asarray(np.where((s.m >= 2 * s.pp - 1) & (s.pp > 1), work + paths, few))


_ZB_V_PATHS = (
    ((0, 0), (2, 0), (-2, 0), (2, 0), (4, -2)),
    ((0, 0), (2, 0), (-2, -1), (2, 0), (4, 0)),
    ((0, 0), (1, 0), (0, 0), (2, 0), (3, -2)),
    ((0, 0), (1, 0), (0, -1), (2, 0), (3, 0)),
    ((0, 0), (0, 1), (1, -1), (2, 0), (1, 0)),
    ((0, 1), (0, 0), (1, -1), (2, -1), (1, -1)),
    ((2, 0), (-1, 0), (0, -1), (2, 0), (1, 0)),
    ((2, -1), (-1, 1), (0, 0), (2, -1), (1, -1)),
    ((2, 0), (0, 0), (-2, -1), (2, 0), (2, 0)),
    ((2, -1), (0, 1), (-2, 0), (2, -1), (2, -1)),
    ((1, -1), (0, 1), (0, 0), (3, -1), (2, -1)),
    ((1, 0), (0, 0), (0, -1), (3, 0), (2, 0)),
    ((1, -1), (1, 1), (-2, 0), (3, -1), (3, -1)),
    ((1, 0), (1, 0), (-2, -1), (3, 0), (3, 0)),
)


def _dualpipe(s: _Symbols) -> Floats:
    """m - pp/2 - 2 overlapped pairs, with the fill and drain outside them.

    DeepSeek-V3's bubble (pp/2 - 1)(F&B + B - 3W), its B being both gradients, is the part beyond the work when
    F = B = W. Between pairs the path goes on to a neighbour 2 - 2/pp times per two micro-batches, by the slower
    direction.
    """
    h = s.pp // 2
    late = (s.m - 2 * s.pp) // 2
    ladder = 3 * h - 4 + 2 * late + (1 - late) // h
    return np.asarray(
        (s.m - h - 2) * s.pair
        + 2 * h * s.F
        + (h + 2) * (s.B + s.W)
        + (2 * h - 1) * s.down
        + (h + 1) * s.up
        + ladder * _largest(s.down, s.up)
        + _largest(h * s.F, (h - 1) * (s.B + s.up))
        + (h - 1) * _largest(0.0, s.B - s.W + s.up)
    )


def _holds(schedule: Schedule, s: _Symbols) -> NDArray[np.bool_]:
    """Where the closed form is the walk's value.

    Interleaving makes round trips, as 1F1B does, once a chunk spends more time on its transfers than on compute; ZB-V
    and DualPipe have other critical paths when a transfer outlasts an operation, and DualPipe also when activations
    travel much more slowly than gradients.
    """
    if schedule == "interleaved":
        return np.asarray(s.down + s.up <= s.F + s.B + s.W)
    smallest = -_largest(-s.F, -s.B, -s.W)
    hidden = _largest(s.down, s.up) <= smallest
    if schedule == "zb-v":
        return np.asarray((hidden & (s.m >= 2 * s.pp - 1)) | (s.pp == 1))
    if schedule == "dualpipe":
        return np.asarray(hidden & (s.down - s.up <= 0.25 * smallest))
    return np.ones(s.pp.shape, dtype=np.bool_)


def _walked(schedule: Schedule, s: _Symbols, where: NDArray[np.intp]) -> Floats:
    result = np.empty(len(where))
    sizes = np.column_stack([s.pp[where], s.m[where], s.vpp[where]])
    for pp, microbatches, vpp in np.unique(sizes, axis=0).tolist():
        chosen = np.flatnonzero((sizes == (pp, microbatches, vpp)).all(axis=1))
        at = where[chosen]
        stages = pp * chunks_per_rank(schedule, vpp)
        each, between = np.ones(stages), np.ones(stages - 1)
        if schedule == "zb-v":
            between[pp - 1] = 0.0
        timeline = walk(
            compile_schedule(schedule, pp, microbatches, vpp),
            StageTimes(*(x[at, None] * each for x in (s.F, s.B, s.W, s.pair))),
            BoundaryTimes(s.down[at, None] * between, s.up[at, None] * between),
        )
        result[chosen] = timeline.makespan_s
    return result

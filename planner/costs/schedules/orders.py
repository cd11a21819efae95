"""What every pipeline rank does, in which order: GPipe, 1F1B, interleaved 1F1B, ZB-H1, ZB-V and DualPipe.

A model is cut into virtual stages 0 … S - 1; a rank holds one or two (or vpp) of them, its chunks. One slot of a rank's
order is one operation, or two that run overlapped (a forward of one micro-batch with a backward of another).

Sources: GPipe (Huang et al. 2019, Fig. 2c); 1F1B and interleaving (Narayanan et al., SC21, Fig. 4, and Megatron-LM's
warm-up counts); ZB-H1 and ZB-V (Qi et al., "Zero Bubble Pipeline Parallelism", 2024, Fig. 3 and Sec. 6); DualPipe
(DeepSeek-V3 report, Sec. 3.2.1, Fig. 5, with the eight steps of its published program).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from ...errors import InputError
from ...strategy import Schedule

Kind = Literal["F", "B", "W", "BW"]
"""Forward, gradient of the input, gradient of the weights, or both gradients at once."""


class Op(NamedTuple):
    """One operation of a rank: `chunk` counts the rank's own virtual stages."""

    kind: Kind
    microbatch: int
    chunk: int = 0


Slot = tuple[Op, ...]
Order = list[Slot]


class Shape(NamedTuple):
    """The sizes a schedule depends on."""

    pp: int
    vpp: int
    microbatches: int


def chunks_per_rank(schedule: Schedule, vpp: int = 1) -> int:
    """Virtual stages one rank holds; two for ZB-V's two arms and for DualPipe's two copies of the model."""
    if schedule in ("zb-v", "dualpipe"):
        return 2
    return vpp if schedule == "interleaved" else 1


def stage_of(schedule: Schedule, pp: int, rank: int, chunk: int) -> int:
    """Virtual stage that is a rank's chunk.

    Stages are dealt round robin when interleaved, and there and back in ZB-V. DualPipe has 2·pp of them: pp … 2·pp - 1
    are the stages 0 … pp - 1 of the second copy of the model, which runs from the last rank to the first.
    """
    if schedule in ("zb-v", "dualpipe") and chunk == 1:
        return 2 * pp - 1 - rank
    return chunk * pp + rank


def check_shape(schedule: Schedule, pp: int, vpp: int, microbatches: int) -> None:
    """Raise InputError when a schedule cannot run with these sizes."""
    if pp < 1 or vpp < 1 or microbatches < 1:
        raise InputError(f"schedule {schedule}: pp {pp}, vpp {vpp} and microbatches {microbatches} must be at least 1")
    if schedule != "interleaved" and vpp != 1:
        raise InputError(f"schedule {schedule} has no virtual stages: vpp must be 1 but got {vpp}")
    if schedule == "interleaved" and microbatches % pp:
        raise InputError(f"schedule interleaved: microbatches {microbatches} must be a multiple of pp {pp}")
    if schedule == "dualpipe" and pp % 2:
        raise InputError(f"schedule dualpipe: pp must be even but got {pp}")
    if schedule == "dualpipe" and (microbatches % 2 or microbatches < 2 * pp):
        raise InputError(
            f"schedule dualpipe: microbatches must be even and at least 2 × pp = {2 * pp} but got {microbatches}"
        )


def rank_orders(schedule: Schedule, pp: int, microbatches: int, vpp: int = 1) -> list[Order]:
    """The order of every rank. Raises InputError when the schedule cannot run with these sizes."""
    shape = Shape(pp, vpp, microbatches)
    check_shape(schedule, *shape)
    builders: dict[Schedule, Callable[[Shape, int], Order]] = {
        "gpipe": _gpipe,
        "1f1b": _one_forward_one_backward,
        "interleaved": _interleaved,
        "zb-h1": _zb_h1,
        "zb-v": _zb_v,
        "dualpipe": _dualpipe,
    }
    return [builders[schedule](shape, rank) for rank in range(pp)]


def _gpipe(shape: Shape, rank: int) -> Order:
    m = shape.microbatches
    forward: Order = [(Op("F", i),) for i in range(m)]
    return [*forward, *((Op("BW", i),) for i in reversed(range(m)))]


def _one_forward_one_backward(shape: Shape, rank: int) -> Order:
    m = shape.microbatches
    warm_up = min(m, shape.pp - rank - 1)
    order: Order = [(Op("F", i),) for i in range(warm_up)]
    for i in range(m):
        if warm_up + i < m:
            order.append((Op("F", warm_up + i),))
        order.append((Op("BW", i),))
    return order


def _interleaved(shape: Shape, rank: int) -> Order:
    pp, vpp, m = shape
    total = m * vpp
    warm_up = min(total, 2 * (pp - rank - 1) + (vpp - 1) * pp)

    def op(kind: Kind, k: int) -> Slot:
        chunk, microbatch = k // pp % vpp, k // (pp * vpp) * pp + k % pp
        return (Op(kind, microbatch, chunk if kind == "F" else vpp - 1 - chunk),)

    order = [op("F", k) for k in range(warm_up)]
    for k in range(total):
        if warm_up + k < total:
            order.append(op("F", warm_up + k))
        order.append(op("BW", k))
    return order


def _zb_h1(shape: Shape, rank: int) -> Order:
    """1F1B with every weight gradient put off by `rank` micro-batches, so that it fills the bubble of the drain."""
    m = shape.microbatches
    warm_up = min(m, shape.pp - rank - 1)
    order: Order = [(Op("F", i),) for i in range(warm_up)]
    for i in range(m):
        if warm_up + i < m:
            order.append((Op("F", warm_up + i),))
        order.append((Op("B", i),))
        if i >= rank:
            order.append((Op("W", i - rank),))
    order.extend((Op("W", i),) for i in range(max(0, m - rank), m))
    return order


def _zb_v(shape: Shape, rank: int) -> Order:
    """The order for at least 2·pp - 1 micro-batches, without those that there are not."""
    pp, m = shape.pp, shape.microbatches
    full = max(2 * pp - 1, m)
    build = _Builder()
    build.repeat(2 * (pp - rank) - 1, "F0")
    build.repeat(rank, "F1", "F0")
    build.repeat(pp - rank, "F1", "B1", "W1")
    while build.done["F1"] < build.done["F0"] or build.done["F0"] < full:
        if build.done["F0"] < full:
            build.repeat(1, "F0")
        build.repeat(1, "B0", "W0", "F1", "B1", "W1")
    build.repeat(rank, "B0", "B1")
    build.repeat(pp - rank, "B0", "W0")
    build.repeat(build.done["B1"] - build.done["W1"], "W1")
    build.repeat(build.done["B0"] - build.done["W0"], "W0")
    return [slot for slot in build.order if slot[0].microbatch < m]


def _dualpipe(shape: Shape, rank: int) -> Order:
    """DualPipe's eight steps; ranks of the second half see the two directions exchanged."""
    pp, half = shape.pp, shape.pp // 2
    inner = min(rank, pp - 1 - rank)
    from_middle, second = half - 1 - inner, rank >= half
    build = _Builder()
    build.repeat(2 * from_middle, "F0")
    build.repeat(inner + 1, "F0", "F1")
    build.repeat(from_middle, "B1", "W", "F1")
    for i in range(shape.microbatches // 2 - pp + inner + 1):
        build.repeat(1, *(("F0", "D1") if i == 0 and from_middle == 0 else ("F0+D1",)), "F1+D0")
    build.repeat(from_middle, "D1", "F1+D0")
    for i in range(2 * (inner + 1)):
        split = i >= inner + 1
        build.repeat(1, f"{'B' if split else 'D'}{1 - i % 2}")
    build.repeat(from_middle, "W", "B0")
    build.repeat(inner + 1, "W")
    if not second:
        return build.order
    return [tuple(op._replace(chunk=1 - op.chunk) for op in slot) for slot in build.order]


class _Builder:
    """Appends operations by short names: kind and chunk ("D" both gradients at once, "W" the oldest one still due)."""

    def __init__(self) -> None:
        self.order: Order = []
        self.done = dict.fromkeys(("F0", "F1", "B0", "B1", "W0", "W1"), 0)
        self._due: list[tuple[int, int]] = []

    def repeat(self, times: int, *names: str) -> None:
        for _ in range(times):
            self.order.extend(tuple(self._op(part) for part in name.split("+")) for name in names)

    def _op(self, name: str) -> Op:
        if name == "W":
            microbatch, chunk = self._due.pop(0)
            return Op("W", microbatch, chunk)
        chunk = int(name[1])
        key = f"B{chunk}" if name[0] == "D" else name
        microbatch = self.done[key]
        self.done[key] += 1
        if name[0] == "B":
            self._due.append((microbatch, chunk))
        return Op("BW", microbatch, chunk) if name[0] == "D" else Op(_KINDS[name[0]], microbatch, chunk)


_KINDS: dict[str, Kind] = {"F": "F", "B": "B", "W": "W"}

"""Times of the collective algorithms on groups whose links are known.

Inside a domain every algorithm takes

    t = floor + steps · step + V / (efficiency · B) + copy_passes · S / (n · M) + ramp · sqrt(V / B)

with V the bytes a rank sends, B its link rate, S the buffer, n the ranks and M the memory rate: the α–β model of
Hockney (Parallel Computing 20, 1994) with the two terms that message-passing in chunks adds. Between domains the
transfer takes as long as the slower of links and NICs, and every hop or message over a NIC its own latency. Sizes are
those of nccl-tests (doc/PERFORMANCE.md): the whole buffer, gathered for all_gather and reduce_scatter, a rank's send
buffer for all_to_all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import TopologyError

Floats = NDArray[np.float64]

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")
SERVING_OPS = (
    "custom_all_reduce",
    "moe_dispatch",
    "moe_combine",
    "moe_dispatch_low_latency",
    "moe_combine_low_latency",
)
EXCHANGES = ("all_to_all", *SERVING_OPS[1:])
CHAINS = ("broadcast", "send_recv")

SWITCH_RANKS = 5
"""Ranks of a domain from which NCCL adds in the switch: measured at 8 and not at 2 and 4."""


@dataclass(frozen=True, slots=True)
class Links:
    """What groups of `ranks` × `domains` get, each field an array over groups.

    `inside_bytes_per_s` is one rank's nominal rate inside its domain, `inside_limit_bytes_per_s` what measured links
    leave of it, and `span` the level of a PCIe tree it reaches;
    `network_bytes_per_s` is what the group's ranks in one domain together can send out, infinite when there is one
    domain. `ports` are the NICs they do it on. `in_switch` says whether the domain's switch can add.
    """

    ranks: Floats
    domains: Floats
    inside_bytes_per_s: Floats
    inside_limit_bytes_per_s: Floats
    memory_bytes_per_s: Floats
    hop_s: Floats
    span: NDArray[np.intp]
    in_switch: NDArray[np.bool_]
    network_bytes_per_s: Floats
    network_step_s: Floats
    network_message_s: Floats
    network_ramp: Floats
    ports: Floats


@dataclass(frozen=True, slots=True)
class Constants:
    """`OpCoefficients` with the efficiency of every level of a PCIe tree, as arrays for vectorized use."""

    floor_s: float
    step_s: float
    efficiency: Floats
    copy_passes: float
    ramp: float


@dataclass(frozen=True, slots=True)
class _Work:
    """What one algorithm moves: bytes a rank sends inside and (all ranks of a domain) outside, hops, messages."""

    inside_bytes: Floats
    outside_bytes: Floats
    steps: Floats
    outside_steps: Floats
    messages: Floats


def check_op(op: str) -> None:
    """Raise TopologyError for an operation that is not modelled."""
    if op not in OPS and op not in SERVING_OPS:
        raise TopologyError(f"unknown collective {op!r}; known: {', '.join((*OPS, *SERVING_OPS))}")


def algorithms_of(op: str) -> tuple[str, ...]:
    """The algorithms among which a library chooses for an operation, as named in the coefficients."""
    if op == "all_reduce":
        return ("all_reduce", "all_reduce_tree", "all_reduce_switch")
    if op == "custom_all_reduce":
        return ("one_shot", "two_shot")
    return (op,)


def coefficients_name(algorithm: str) -> str:
    """Whose constants an algorithm uses: trees those of the ring, a broadcast those of the all-gather."""
    return {"all_reduce_tree": "all_reduce", "broadcast": "all_gather"}.get(algorithm, algorithm)


def terms(algorithm: str, size: Floats, links: Links) -> Floats:
    """The five terms of the time inside a domain, `[5, groups]`: what each constant is multiplied with.

    In the order launch, hops, transfer at full rate, copy, root of the transfer. The sum of terms times constants
    (1 / efficiency for the transfer) is `algorithm_seconds` for groups in one domain.
    """
    work = _work(algorithm, size, links)
    transfer = work.inside_bytes / links.inside_bytes_per_s
    own = size / (links.ranks * links.domains) / links.memory_bytes_per_s
    return np.stack([np.ones(size.shape), work.steps, transfer, own, np.sqrt(transfer)])


def algorithm_seconds(algorithm: str, size: Floats, links: Links, constants: Constants) -> Floats:
    """Time of one algorithm on groups of at least two ranks; infinite where it cannot run."""
    work = _work(algorithm, size, links)
    floor, steps, transfer, own, root = terms(algorithm, size, links)
    inside = np.maximum(transfer / constants.efficiency[links.span], work.inside_bytes / links.inside_limit_bytes_per_s)
    many = links.domains > 1
    outside = np.where(many, work.outside_bytes / links.network_bytes_per_s, 0.0)
    time = (
        constants.floor_s * floor
        + constants.step_s * steps
        + links.hop_s * steps
        + np.maximum(inside, outside)
        + constants.copy_passes * own
        + constants.ramp * root
        + links.network_step_s * work.outside_steps
        + links.network_message_s * np.maximum(work.messages - 1, 0.0)
        + links.network_ramp * np.sqrt(outside)
    )
    return np.where(_usable(algorithm, size, links), time, np.inf)


def _work(algorithm: str, size: Floats, links: Links) -> _Work:
    r, d = links.ranks, links.domains
    n = r * d
    zero = np.zeros(np.broadcast(size, n).shape)
    many = d > 1
    if algorithm in EXCHANGES:
        outside = np.where(many, size * (n - r) / n * r, 0.0)
        messages = np.where(many & (algorithm == "all_to_all"), (n - r) * r / links.ports, 0.0)
        return _Work(size * (r - 1) / n, outside, r - 1 + zero, many + zero, messages)
    if algorithm in CHAINS:
        return _Work(size + zero, size + zero, r - 1 + zero, d - 1 + zero, zero)
    if algorithm == "one_shot":
        return _Work(size * (n - 1), zero, n - 1 + zero, zero, zero)
    if algorithm == "two_shot":
        return _Work(2 * (n - 1) / n * size, zero, n - 1 + zero, zero, zero)
    if algorithm in ("all_reduce_tree", "all_reduce_switch"):
        depth = 2 * np.ceil(np.log2(np.maximum(d, 1.0)))
        chain = 2 * (r - 1) + zero if algorithm == "all_reduce_tree" else zero
        moved = 2 * (n - 1) / n * size if algorithm == "all_reduce_tree" else (r + 1) / r * size
        sent = np.where(d == 2, size, 2 * (n - 1) / n * size)
        return _Work(moved + zero, sent, chain, depth + zero, zero)
    passes = 2.0 if algorithm == "all_reduce" else 1.0
    moved = passes * (n - 1) / n * size + zero
    return _Work(moved, moved, passes * (n - d) + zero, passes * (d - 1) + zero, zero)


def _usable(algorithm: str, size: Floats, links: Links) -> NDArray[np.bool_]:
    n = links.ranks * links.domains
    adds = links.in_switch & (links.ranks >= SWITCH_RANKS)
    if algorithm == "all_reduce":
        return np.asarray(~(adds & (links.domains == 1)))
    if algorithm == "all_reduce_tree":
        return np.asarray(links.domains > 1)
    if algorithm == "all_reduce_switch":
        return np.asarray(adds)
    if algorithm == "one_shot":
        return np.asarray((links.domains == 1) & (links.span == 0) & (size <= one_shot_bytes(n)))
    if algorithm == "two_shot":
        large = (size > one_shot_bytes(n)) & (size <= TWO_SHOT_BYTES)
        return np.asarray((links.domains == 1) & (links.span == 0) & large)
    return np.ones(np.broadcast(size, n).shape, dtype=bool)


TWO_SHOT_BYTES = 8 * 2**20
"""Largest all-reduce the engines' own kernels take (vLLM and SGLang `max_size` of custom_all_reduce)."""


def one_shot_bytes(ranks: Floats) -> Floats:
    """Largest all-reduce done in one shot: any on two ranks, 512 KiB on up to four, 256 KiB on up to eight.

    The rule of vLLM's and SGLang's csrc/custom_all_reduce.cuh.
    """
    return np.where(ranks <= 2, float(TWO_SHOT_BYTES), np.where(ranks <= 4, 512 * 1024.0, 256 * 1024.0))

"""How a mixture-of-experts model routes: expert counts, layer-to-layer transitions, or the experts of every token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ModelError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_EXPERTS = 4096
MAX_LAYERS = 4096
MAX_PAIRS = 250_000_000


@dataclass(frozen=True, slots=True)
class Routing:
    """Routing statistics of one workload, from the first to the last layer that has experts.

    `loads[l, e]` is the share of layer l's tokens that expert e gets (rows add up to one). `transitions[l, e, f]` is
    the share that goes from expert e of layer l to expert f of layer l + 1. `top_ids[t, l, :]` are the experts of
    token t, best first. `layers[l]` is the row of the file that layer l was read from and `rows` the number of rows
    in it: rows without a single token are dense layers and left out. `weight` is the number of tokens counted (0:
    unknown).
    """

    name: str
    loads: Floats
    layers: Ints
    rows: int
    transitions: Floats | None = None
    top_ids: Ints | None = None
    weight: float = 0.0

    @property
    def experts(self) -> int:
        """Number of experts in each layer."""
        return int(self.loads.shape[1])


def routing_from_counts(name: str, counts: ArrayLike) -> Routing:
    """Routing from token counts (or shares), [layers, experts] or [steps, layers, experts] to be added up."""
    table = _numbers(name, "expert counts", counts)
    if table.ndim == 3:
        table = table.sum(axis=0)
    if table.ndim != 2 or 0 in table.shape:
        raise ModelError(f"{name}: expert counts must be layers × experts but have shape {_shape(table)}")
    _check_size(name, *table.shape)
    layers = np.flatnonzero(table.sum(axis=1) > 0)
    if not len(layers):
        raise ModelError(f"{name}: expert counts are all zero")
    kept = table[layers]
    loads = kept / kept.sum(axis=1, keepdims=True)
    return Routing(name, loads, layers, len(table), weight=float(kept.sum(axis=1).mean()))


def routing_from_transitions(name: str, transitions: ArrayLike, loads: ArrayLike | None = None) -> Routing:
    """Routing from transition counts or shares, [layers - 1, experts, experts], and loads, [layers, experts].

    Every transition is scaled to add up to one. Without loads they are the row and column sums.
    """
    table = _numbers(name, "transitions", transitions)
    if table.ndim != 3 or table.shape[1] != table.shape[2] or 0 in table.shape:
        raise ModelError(f"{name}: transitions must be (layers - 1) × experts × experts but have shape {_shape(table)}")
    totals = table.sum(axis=(1, 2))
    if np.any(totals <= 0):
        raise ModelError(f"{name}: transition {int(np.flatnonzero(totals <= 0)[0])} has no tokens")
    table = table / totals[:, None, None]
    if loads is None:
        weights = np.concatenate([table[:1].sum(axis=2), table.sum(axis=1)])
    else:
        weights = _numbers(name, "loads", loads)
    if weights.shape != (len(table) + 1, table.shape[1]):
        raise ModelError(
            f"{name}: loads must be {len(table) + 1} × {table.shape[1]} to fit the transitions "
            f"but have shape {_shape(weights)}"
        )
    if np.any(weights.sum(axis=1) <= 0):
        raise ModelError(f"{name}: loads of layer {int(weights.sum(axis=1).argmin())} are all zero")
    _check_size(name, *weights.shape)
    shares = weights / weights.sum(axis=1, keepdims=True)
    return Routing(name, shares, np.arange(len(shares)), len(shares), table, weight=float(totals.mean()))


def routing_from_ids(name: str, ids: ArrayLike, *, top: int | None = None, experts: int | None = None) -> Routing:
    """Routing from the expert ids of every token, [tokens, layers, k], best first; `top` keeps the first ones only.

    A transition counts every pair of a token's kept experts in two layers, each token adding one in all. Layers
    in which every id is negative are dense. Without `experts` the number of experts is one more than the largest id.
    """
    try:
        table = np.asarray(ids)
    except ValueError as error:
        raise ModelError(f"{name}: expert ids must be tokens × layers × k with rows of one length") from error
    if table.ndim == 2:
        table = table[:, :, None]
    if table.ndim != 3 or 0 in table.shape:
        raise ModelError(f"{name}: expert ids must be tokens × layers × k but have shape {_shape(table)}")
    if table.dtype.kind not in "iu":
        raise ModelError(f"{name}: expert ids must be whole numbers but have type {table.dtype}")
    if top is not None and not 1 <= top <= table.shape[2]:
        raise ModelError(f"{name}: top must be from 1 to the {table.shape[2]} ids per token but got {top}")
    table = table[:, :, :top].astype(np.int64)
    layers = np.flatnonzero((table >= 0).any(axis=(0, 2)))
    table = table[:, layers]
    table = table[(table >= 0).any(axis=(1, 2))]
    if not table.size:
        raise ModelError(f"{name}: no expert id of 0 or more")
    if table.min() < 0:
        raise ModelError(f"{name}: expert id {int(table.min())} is negative in a layer where others are not")
    count = int(table.max()) + 1 if experts is None else experts
    if table.max() >= count:
        raise ModelError(f"{name}: expert id {int(table.max())} is out of range for {count} experts")
    _check_size(name, len(layers), count)
    if len(layers) * count**2 > MAX_PAIRS:
        raise ModelError(
            f"{name}: transitions of {len(layers)} layers of {count} experts have more than the {MAX_PAIRS:g} "
            "pairs that are counted"
        )
    return _counted(name, table, layers, int(np.shape(ids)[1]), count)


def _counted(name: str, ids: Ints, layers: Ints, rows: int, experts: int) -> Routing:
    tokens, depth, kept = ids.shape
    loads = np.stack([np.bincount(ids[:, layer].ravel(), minlength=experts) for layer in range(depth)])
    transitions = np.zeros((depth - 1, experts, experts))
    for layer in range(depth - 1):
        pairs = ids[:, layer, :, None] * experts + ids[:, layer + 1, None, :]
        transitions[layer] = np.bincount(pairs.ravel(), minlength=experts * experts).reshape(experts, experts)
    shares = loads / (tokens * kept)
    return Routing(
        name, shares, layers, rows, transitions / (tokens * kept * kept) if depth > 1 else None, ids, float(tokens)
    )


def split_tokens(routing: Routing, held_out: float) -> tuple[Routing, Routing]:
    """The first tokens to plan with and the last share `held_out` of them to judge by.

    Raises ModelError when there are no token ids or a part would be empty.
    """
    if routing.top_ids is None:
        raise ModelError(f"{routing.name}: held-out tokens need a trace of expert ids, not counts")
    tokens = len(routing.top_ids)
    kept = tokens - round(tokens * held_out)
    if not 0 < kept < tokens:
        raise ModelError(f"{routing.name}: a held-out share of {held_out} leaves no tokens of {tokens} on one side")
    first = _counted(routing.name, routing.top_ids[:kept], routing.layers, routing.rows, routing.experts)
    last = _counted(routing.name, routing.top_ids[kept:], routing.layers, routing.rows, routing.experts)
    return first, last


def _numbers(name: str, what: str, values: ArrayLike) -> Floats:
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name}: {what} must be numbers in rows of one length") from error
    if not np.all(np.isfinite(table)):
        raise ModelError(f"{name}: {what} must be finite but have {_first(table, ~np.isfinite(table))}")
    if np.any(table < 0):
        raise ModelError(f"{name}: {what} must not be negative but have {_first(table, table < 0)}")
    return table


def _first(table: Floats, where: NDArray[np.bool_]) -> str:
    index = tuple(int(i) for i in np.argwhere(where)[0])
    return f"{table[index]} at {list(index)}"


def _check_size(name: str, layers: int, experts: int) -> None:
    if layers > MAX_LAYERS or experts > MAX_EXPERTS:
        raise ModelError(
            f"{name}: at most {MAX_LAYERS} layers of {MAX_EXPERTS} experts are read but got {layers} of {experts}"
        )


def _shape(table: NDArray[np.generic]) -> str:
    return " × ".join(str(size) for size in table.shape) or "a single number"

"""The part of a strategy that one block's cost depends on: evaluated once per distinct combination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..workload.strategy_table import Ints, StrategyTable, row_codes

Floats = NDArray[np.float64]

EXPERT_NAMES = ("ep", "etp", "ep_overlap")


@dataclass(frozen=True, slots=True)
class BlockKeys:
    """Distinct (tp, sp, cp, mbs, ep, etp, cp_comm, tp_overlap, ep_overlap), one entry each, and their token counts.

    `sequence` is the length of one sequence. `tokens` are those of a micro-batch on one cp rank; `own_tokens` those
    that a tp rank alone works on where tp does not divide the features: tokens / tp under sp, all of them without.
    `pair_first` and `pair_inverse` number the distinct (tp, sp) as `row_codes` does. `dense` are the keys that differ
    in more than how experts are divided, each once, and `dense_of` its position for every key; None where all do.
    """

    tp: Ints
    sp: Ints
    cp: Ints
    mbs: Ints
    ep: Ints
    etp: Ints
    cp_comm: Ints
    tp_overlap: Ints
    ep_overlap: Ints
    sequence: int
    tokens: Floats
    own_tokens: Floats
    pair_first: NDArray[np.int64]
    pair_inverse: NDArray[np.int64]
    dense: BlockKeys | None = None
    dense_of: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.tp)

    def by_tp(self, count: Callable[..., float]) -> Floats:
        """An array over keys from a function of (tp, sp), called once per distinct pair."""
        values = [count(int(self.tp[i]), bool(self.sp[i])) for i in self.pair_first]
        return np.array(values, dtype=np.float64)[self.pair_inverse]

    def of_source(self, tokens: int) -> BlockKeys:
        """The same for what runs over so many tokens beside every sequence: cp divides them, sp does not."""
        held: Floats = np.ceil(tokens / self.cp) * self.mbs
        undivided = np.zeros_like(self.sp)
        return replace(self, sp=undivided, sequence=tokens, tokens=held, own_tokens=held, dense=None, dense_of=None)


def block_keys(table: StrategyTable, sequence: int) -> tuple[BlockKeys, NDArray[np.int64]]:
    """The distinct keys of a table, and for every row the position of its key."""
    names = ("tp", "sp", "cp", "mbs", "ep", "etp", "cp_comm", "tp_overlap", "ep_overlap")
    columns = [table.column(name) for name in names]
    first, inverse = row_codes(columns)
    distinct = {name: column[first] for name, column in zip(names, columns, strict=True)}
    alike, which = row_codes([column for name, column in distinct.items() if name not in EXPERT_NAMES])
    if len(alike) == len(first):
        return _keys(distinct, sequence), inverse
    dense = _keys({name: column[alike] for name, column in distinct.items()}, sequence)
    return replace(_keys(distinct, sequence), dense=dense, dense_of=which), inverse


def _keys(distinct: dict[str, Ints], sequence: int) -> BlockKeys:
    tp, mbs, cp = distinct["tp"], distinct["mbs"], distinct["cp"]
    tokens = mbs * sequence / cp
    own = np.where(distinct["sp"] == 1, tokens / tp, tokens)
    pairs = row_codes((tp, distinct["sp"]))
    columns: dict[str, Any] = dict(distinct)
    return BlockKeys(
        **columns, sequence=sequence, tokens=tokens, own_tokens=own, pair_first=pairs[0], pair_inverse=pairs[1]
    )

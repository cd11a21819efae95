"""Many strategies at once: one array per field, so that every rule and cost is an array operation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..strategy import (
    CONTEXT_COMMS,
    DEGREES,
    EXPERT_OVERLAPS,
    OFFLOADS,
    RECOMPUTE_MODULES,
    RECOMPUTES,
    SCHEDULES,
    SYNCS,
    Strategy,
)

Ints = NDArray[np.int64]

FIELDS = (
    *DEGREES,
    "sp",
    "zero",
    "recompute",
    "recompute_layers",
    "recompute_modules",
    "schedule",
    "cp_comm",
    "layout",
    "weight_shard",
    "gradient_shard",
    "offload_optimizer",
    "offload_activations",
    "tp_overlap",
    "ep_overlap",
    "sync_period",
    "sync",
    "vocab_parallel",
)
ALL_LAYERS = 1 << 30
EVEN, BALANCED, CUSTOM = 0, 1, 2
_DEFAULTS = dict.fromkeys((*DEGREES, "zero", "sync_period"), 1) | {"recompute_layers": ALL_LAYERS}


@dataclass(frozen=True, slots=True)
class StrategyTable:
    """Strategies as columns; row i of every column together is one strategy.

    Words are stored as positions: `recompute` in RECOMPUTES, `schedule` in SCHEDULES, `cp_comm` in CONTEXT_COMMS, and
    `recompute_modules` as a bit per member of RECOMPUTE_MODULES. `recompute_layers` of ALL_LAYERS means all. `layout`
    is EVEN, BALANCED, or CUSTOM + i for `custom_layouts[i]`, of whose layers `custom_recomputes[i]` are fully
    recomputed where it is not empty. A `weight_shard` or `gradient_shard` of 0 means all.
    """

    tp: Ints
    cp: Ints
    pp: Ints
    vpp: Ints
    dp_replicate: Ints
    dp_shard: Ints
    ep: Ints
    etp: Ints
    mbs: Ints
    sp: Ints
    zero: Ints
    recompute: Ints
    recompute_layers: Ints
    recompute_modules: Ints
    schedule: Ints
    cp_comm: Ints
    layout: Ints
    weight_shard: Ints
    gradient_shard: Ints
    offload_optimizer: Ints
    offload_activations: Ints
    tp_overlap: Ints
    ep_overlap: Ints
    sync_period: Ints
    sync: Ints
    vocab_parallel: Ints
    custom_layouts: tuple[tuple[int, ...], ...] = ()
    custom_recomputes: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def dp(self) -> Ints:
        """Data-parallel ranks, sharded or not."""
        return self.dp_shard * self.dp_replicate

    @property
    def virtual_stages(self) -> Ints:
        """Pieces each pipeline cuts the chain into; two per rank in ZB-V."""
        return self.pp * np.where(self.schedule == SCHEDULES.index("zb-v"), 2, self.vpp)

    @property
    def world_size(self) -> Ints:
        """Devices each strategy needs."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def edp(self) -> Ints:
        """Ranks that hold the same experts."""
        return self.tp * self.cp * self.dp // (self.ep * self.etp)

    def column(self, name: str) -> Ints:
        """The array of one field."""
        values: Ints = getattr(self, name)
        return values

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> StrategyTable:
        """The rows picked by an index, a mask or a slice."""
        return StrategyTable(
            **{name: self.column(name)[rows] for name in FIELDS},
            custom_layouts=self.custom_layouts,
            custom_recomputes=self.custom_recomputes,
        )

    def row(self, index: int) -> Strategy:
        """One row as a Strategy; `stage_layers` is set only for custom layouts, the others follow from the model."""
        value = {name: int(self.column(name)[index]) for name in FIELDS}
        layers = value["recompute_layers"]
        full = RECOMPUTES[value["recompute"]] == "full"
        layout = value["layout"]
        return Strategy(
            **{name: value[name] for name in (*DEGREES, "zero")},
            sp=bool(value["sp"]),
            recompute=RECOMPUTES[value["recompute"]],
            recompute_layers=layers if full and layers < ALL_LAYERS else None,
            recompute_modules=tuple(
                module for bit, module in enumerate(RECOMPUTE_MODULES) if value["recompute_modules"] >> bit & 1
            ),
            schedule=SCHEDULES[value["schedule"]],
            cp_comm=CONTEXT_COMMS[value["cp_comm"]],
            stage_layers=self.custom_layouts[layout - CUSTOM] if layout >= CUSTOM else None,
            stage_recompute=self.custom_recomputes[layout - CUSTOM] or None if layout >= CUSTOM else None,
            weight_shard=value["weight_shard"] or None,
            gradient_shard=value["gradient_shard"] or None,
            offload_optimizer=OFFLOADS[value["offload_optimizer"]],
            offload_activations=OFFLOADS[value["offload_activations"]],
            tp_overlap=bool(value["tp_overlap"]),
            ep_overlap=EXPERT_OVERLAPS[value["ep_overlap"]],
            sync_period=value["sync_period"],
            sync=SYNCS[value["sync"]],
            vocab_parallel=bool(value["vocab_parallel"]),
        )


def module_bits(modules: Iterable[str]) -> int:
    """Recompute modules as the bits a table stores."""
    chosen = set(modules)
    return sum(1 << bit for bit, module in enumerate(RECOMPUTE_MODULES) if module in chosen)


def table_of_columns(columns: Mapping[str, ArrayLike], rows: int | None = None) -> StrategyTable:
    """A table from the columns given, the others at their defaults (degree 1, nothing recomputed, 1f1b)."""
    count = rows if rows is not None else max(np.size(np.asarray(values)) for values in columns.values())
    arrays: dict[str, Any] = {
        name: np.broadcast_to(np.asarray(columns.get(name, _DEFAULTS.get(name, 0)), np.int64), (count,))
        for name in FIELDS
    }
    return StrategyTable(**arrays)


def table_of(strategies: Sequence[Strategy], layers: int) -> StrategyTable:
    """A table of given strategies for a model of that many layers; without `stage_layers` an equal split is used
    where the layers divide, the balanced one where they do not."""
    custom: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    rows = []
    for each in strategies:
        if each.stage_layers is not None:
            layout = CUSTOM + custom.setdefault((each.stage_layers, each.stage_recompute or ()), len(custom))
        else:
            layout = EVEN if layers % each.virtual_stages == 0 else BALANCED
        rows.append(
            [getattr(each, name) for name in DEGREES]
            + [
                int(each.sp),
                each.zero,
                RECOMPUTES.index(each.recompute),
                ALL_LAYERS if each.recompute_layers is None else each.recompute_layers,
                module_bits(each.recompute_modules),
                SCHEDULES.index(each.schedule),
                CONTEXT_COMMS.index(each.cp_comm),
                layout,
                each.weight_shard or 0,
                each.gradient_shard or 0,
                OFFLOADS.index(each.offload_optimizer),
                OFFLOADS.index(each.offload_activations),
                int(each.tp_overlap),
                EXPERT_OVERLAPS.index(each.ep_overlap),
                each.sync_period,
                SYNCS.index(each.sync),
                int(each.vocab_parallel),
            ]
        )
    grid = np.array(rows, dtype=np.int64).reshape(len(rows), len(FIELDS))
    columns: dict[str, Any] = dict(zip(FIELDS, grid.T, strict=True))
    return StrategyTable(
        **columns,
        custom_layouts=tuple(layers for layers, _ in custom),
        custom_recomputes=tuple(again for _, again in custom),
    )


def concatenate(tables: Sequence[StrategyTable]) -> StrategyTable:
    """The rows of all tables in order."""
    layouts: list[tuple[int, ...]] = []
    recomputes: list[tuple[int, ...]] = []
    columns = {name: np.concatenate([table.column(name) for table in tables]) for name in FIELDS}
    moved = []
    for table in tables:
        moved.append(np.where(table.layout >= CUSTOM, table.layout + len(layouts), table.layout))
        layouts += table.custom_layouts
        recomputes += table.custom_recomputes
    columns["layout"] = np.concatenate(moved)
    return StrategyTable(**columns, custom_layouts=tuple(layouts), custom_recomputes=tuple(recomputes))


def row_codes(columns: Sequence[Ints]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row and code of every distinct combination of the columns, in order of the combination.

    Returns (`first`, `inverse`): `column[first][inverse]` equals `column` for each of them.
    """
    code = np.zeros(len(columns[0]), np.int64)
    span = 1
    for column in columns:
        if span > 1 << 40:
            _, code = np.unique(code, return_inverse=True)
            span = int(code.max(initial=0)) + 1
        low = int(column.min(initial=0))
        width = int(column.max(initial=0)) - low + 1
        if width > 1 << 20:
            _, column = np.unique(column, return_inverse=True)
            low, width = 0, int(column.max(initial=0)) + 1
        code = code * width + (column - low)
        span *= width
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return first, inverse

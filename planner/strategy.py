"""One validated object for all parallel degrees, and the explicit rank groups they stand for."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Recompute = Literal["none", "selective", "full"]
Schedule = Literal["1f1b", "interleaved", "gpipe", "zb-h1", "zb-v", "dualpipe"]
Axis = Literal["tp", "cp", "dp_shard", "dp_replicate", "pp", "ep", "etp", "edp"]


class Constraints(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Values a strategy must take; None or an empty tuple leaves a degree free."""

    tp: tuple[int, ...] = ()
    cp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    vpp: tuple[int, ...] = ()
    dp_replicate: tuple[int, ...] = ()
    dp_shard: tuple[int, ...] = ()
    ep: tuple[int, ...] = ()
    etp: tuple[int, ...] = ()
    mbs: tuple[int, ...] = ()
    zero: tuple[int, ...] = ()
    sp: bool | None = None
    recompute: tuple[Recompute, ...] = ()
    schedule: tuple[Schedule, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tp", "cp", "pp", "vpp", "dp_replicate", "dp_shard", "ep", "etp", "mbs"):
            for value in getattr(self, name):
                if value < 1:
                    raise InputError(f"constraints.{name} must be at least 1 but got {value}")
        for value in self.zero:
            if value not in (0, 1, 2, 3):
                raise InputError(f"constraints.zero must be 0, 1, 2 or 3 but got {value}")


class Strategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every parallel degree of a training run, checked together.

    Dense layers divide the world into tp × cp × dp_shard × dp_replicate × pp; expert layers divide the same world
    into etp × ep × edp × pp, where edp is what is left. `zero` says what is divided over the cp × dp_shard ranks:
    0 nothing, 1 optimizer states, 2 gradients as well, 3 weights as well. `mbs` is in sequences. `recompute_layers`
    is the number of layers per virtual stage that `recompute="full"` applies to (None: all).

    Raises InputError when the degrees contradict each other.
    """

    tp: int = 1
    sp: bool = False
    cp: int = 1
    pp: int = 1
    vpp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    zero: int = 1
    ep: int = 1
    etp: int = 1
    mbs: int = 1
    recompute: Recompute = "none"
    recompute_layers: int | None = None
    schedule: Schedule = "1f1b"

    def __post_init__(self) -> None:
        for name in ("tp", "cp", "pp", "vpp", "dp_replicate", "dp_shard", "ep", "etp", "mbs"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"strategy.{name} must be at least 1 but got {value}")
        if self.zero not in (0, 1, 2, 3):
            raise InputError(f"strategy.zero must be 0, 1, 2 or 3 but got {self.zero}")
        if self.sp and self.tp == 1:
            raise InputError("strategy.sp needs tp of at least 2 but got tp 1")
        if self.vpp > 1 and self.pp == 1:
            raise InputError(f"strategy.vpp of {self.vpp} needs pp of at least 2 but got pp 1")
        inner = self.tp * self.cp * self.dp
        if inner % (self.ep * self.etp):
            raise InputError(
                f"strategy.ep × etp = {self.ep * self.etp} must divide tp × cp × dp_shard × dp_replicate = {inner}"
            )

    @property
    def dp(self) -> int:
        """Data-parallel ranks: replicas of the batch dimension, sharded or not."""
        return self.dp_shard * self.dp_replicate

    @property
    def world_size(self) -> int:
        """Devices the strategy needs."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def edp(self) -> int:
        """Ranks that hold the same experts."""
        return self.tp * self.cp * self.dp // (self.ep * self.etp)

    def microbatches(self, gbs: int) -> int:
        """Micro-batches one pipeline processes per step. Raises InputError when gbs does not divide."""
        per_step = self.mbs * self.dp
        if gbs % per_step:
            raise InputError(f"gbs {gbs} must be a multiple of mbs × dp = {self.mbs} × {self.dp} = {per_step}")
        return gbs // per_step

    def rank_groups(self, axis: Axis) -> NDArray[np.int64]:
        """Ranks of every group of an axis, one group a row, shape [groups, degree].

        Ranks count up along tp, then cp, dp_shard, dp_replicate, pp; for experts along etp, then ep, edp, pp
        (Megatron-LM's order "tp-cp-ep-dp-pp").
        """
        dense = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
        expert = ("pp", "edp", "ep", "etp")
        names: tuple[str, ...] = expert if axis in ("ep", "etp", "edp") else dense
        grid = np.arange(self.world_size).reshape([getattr(self, name) for name in names])
        return np.moveaxis(grid, names.index(axis), -1).reshape(-1, getattr(self, axis))

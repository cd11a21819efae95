"""One validated object for all parallel degrees, and the explicit rank groups they stand for."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .workload.degrees import check_degree

Recompute = Literal["none", "selective", "full"]
RecomputeModule = Literal["core_attention", "norm", "activation", "mla_up", "mlp", "experts"]
Schedule = Literal["1f1b", "interleaved", "gpipe", "zb-h1", "zb-v", "dualpipe"]
ContextComm = Literal["p2p", "all_gather", "a2a", "a2a+p2p"]
Offload = Literal["none", "cpu", "nvme"]
ExpertOverlap = Literal["none", "shared", "microbatch"]
Sync = Literal["all_reduce", "overlapped", "pairs"]
Axis = Literal["tp", "cp", "dp_shard", "dp_replicate", "pp", "ep", "etp", "edp"]

RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
RECOMPUTE_MODULES: tuple[RecomputeModule, ...] = ("core_attention", "norm", "activation", "mla_up", "mlp", "experts")
SCHEDULES: tuple[Schedule, ...] = ("1f1b", "interleaved", "gpipe", "zb-h1", "zb-v", "dualpipe")
CONTEXT_COMMS: tuple[ContextComm, ...] = ("p2p", "all_gather", "a2a", "a2a+p2p")
OFFLOADS: tuple[Offload, ...] = ("none", "cpu", "nvme")
EXPERT_OVERLAPS: tuple[ExpertOverlap, ...] = ("none", "shared", "microbatch")
SYNCS: tuple[Sync, ...] = ("all_reduce", "overlapped", "pairs")

DEGREES = ("tp", "cp", "pp", "vpp", "dp_replicate", "dp_shard", "ep", "etp", "mbs")
COUNTS = (*DEGREES, "zero", "weight_shard", "gradient_shard", "sync_period")


class Constraints(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Values a strategy must take; None or an empty tuple leaves a degree free.

    The techniques from `cp_comm` on stay at their defaults unless they are named here or in `job.explore`.
    """

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
    cp_comm: tuple[ContextComm, ...] = ()
    weight_shard: tuple[int, ...] = ()
    gradient_shard: tuple[int, ...] = ()
    offload_optimizer: tuple[Offload, ...] = ()
    offload_activations: tuple[Offload, ...] = ()
    tp_overlap: bool | None = None
    ep_overlap: tuple[ExpertOverlap, ...] = ()
    sync_period: tuple[int, ...] = ()
    sync: tuple[Sync, ...] = ()
    vocab_parallel: bool | None = None

    def __post_init__(self) -> None:
        for name in (*DEGREES, "weight_shard", "gradient_shard", "sync_period"):
            for value in getattr(self, name):
                check_degree(f"constraints.{name}", value)
        for value in self.zero:
            if value not in (0, 1, 2, 3):
                raise InputError(f"constraints.zero must be 0, 1, 2 or 3 but got {value}")


class Strategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every parallel degree of a training run, checked together.

    Dense layers divide the world into tp × cp × dp_shard × dp_replicate × pp; expert layers divide the same world
    into etp × ep × edp × pp, where edp is what is left. `zero` says what is divided over the cp × dp_shard ranks:
    0 nothing, 1 optimizer states, 2 gradients as well, 3 weights as well; in a pipeline 2 and 3 reduce and gather for
    every micro-batch, and FSDP that keeps gathered weights and whole gradients until the last one is 1. `mbs` is in
    sequences. `recompute_layers`
    is the number of layers per virtual stage that `recompute="full"` applies to (None: all); `recompute_modules` is
    what `recompute="selective"` recomputes. `stage_layers` gives the layers of every virtual stage in chain order
    (None: equal, or balanced against embedding and head when the layers do not divide), `stage_recompute` how many of
    them `recompute` applies to when that differs between stages. `cp_comm` is how context
    ranks exchange keys and values; "a2a+p2p" swaps heads inside as large a group as the kv heads allow and passes
    rings between groups.

    `weight_shard` and `gradient_shard` are the ranks that divide weights (ZeRO 3) and gradients (from ZeRO 2 on) when
    fewer than the cp × dp_shard that divide the optimizer states (None: the same): ZeRO++'s secondary partition, MiCS,
    and partitions of three levels. `offload_…` moves states or activations off the device. `tp_overlap` fuses
    tensor-parallel transfers into products; `ep_overlap` hides expert dispatch under the shared expert or under
    another micro-batch. With `sync_period` above 1 the dp_replicate ranks average only every so many steps (DiLoCo), by
    an all-reduce, by one hidden under the next period (CO2), or each with one other rank (NoLoCo), as `sync` says.
    `vocab_parallel` divides embedding and head over all pipeline ranks.
    With vpp above 1 the schedule "1f1b" means interleaved 1F1B and is stored so.

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
    recompute_modules: tuple[RecomputeModule, ...] = ()
    schedule: Schedule = "1f1b"
    stage_layers: tuple[int, ...] | None = None
    stage_recompute: tuple[int, ...] | None = None
    cp_comm: ContextComm = "p2p"
    weight_shard: int | None = None
    gradient_shard: int | None = None
    offload_optimizer: Offload = "none"
    offload_activations: Offload = "none"
    tp_overlap: bool = False
    ep_overlap: ExpertOverlap = "none"
    sync_period: int = 1
    sync: Sync = "all_reduce"
    vocab_parallel: bool = False

    def __post_init__(self) -> None:
        for name in DEGREES:
            check_degree(f"strategy.{name}", getattr(self, name))
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
        self._check_details()

    def _check_details(self) -> None:
        if self.vpp > 1 and self.schedule == "1f1b":
            msgspec.structs.force_setattr(self, "schedule", "interleaved")
        if self.schedule == "interleaved" and self.vpp == 1:
            raise InputError("strategy.schedule interleaved needs vpp of at least 2 but got vpp 1")
        if self.recompute_layers is not None and (self.recompute != "full" or self.recompute_layers < 1):
            raise InputError(
                f"strategy.recompute_layers of {self.recompute_layers} needs recompute full and at least 1 layer"
            )
        if self.recompute_modules and self.recompute != "selective":
            raise InputError(f"strategy.recompute_modules needs recompute selective but got {self.recompute}")
        for name in ("weight_shard", "gradient_shard", "sync_period"):
            value = getattr(self, name)
            if value is not None:
                check_degree(f"strategy.{name}", value)
        chunks = self.virtual_stages
        if self.stage_layers is not None and (len(self.stage_layers) != chunks or min(self.stage_layers) < 0):
            raise InputError(
                f"strategy.stage_layers must give {chunks} counts of at least 0, one per virtual stage, "
                f"but got {self.stage_layers}"
            )
        again = self.stage_recompute
        if again is None:
            return
        if self.stage_layers is None or self.recompute == "none" or self.recompute_layers is not None:
            raise InputError(
                "strategy.stage_recompute needs stage_layers, recompute full or selective and no recompute_layers"
            )
        if len(again) != chunks or not all(0 <= r <= n for r, n in zip(again, self.stage_layers, strict=True)):
            raise InputError(
                f"strategy.stage_recompute must give {chunks} counts of at most stage_layers {self.stage_layers}, "
                f"but got {again}"
            )

    @property
    def dp(self) -> int:
        """Data-parallel ranks: replicas of the batch dimension, sharded or not."""
        return self.dp_shard * self.dp_replicate

    @property
    def virtual_stages(self) -> int:
        """Pieces the chain is cut into: pp × vpp, two per rank in ZB-V. DualPipe's second copy is not counted."""
        return self.pp * (2 if self.schedule == "zb-v" else self.vpp)

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

    def label(self) -> str:
        """The degrees that differ from 1, in one line: `tp8 sp pp4 vpp5 dp2 zero1 mbs1 selective`."""
        parts = [f"tp{self.tp}" + (" sp" if self.sp else "")]
        parts += [
            f"{name}{getattr(self, name)}" for name in ("cp", "pp", "vpp", "ep", "etp") if getattr(self, name) > 1
        ]
        shards = f"dp{self.dp}" if self.dp_replicate == 1 else f"dp{self.dp_replicate}x{self.dp_shard}"
        parts += [shards, f"zero{self.zero}", f"mbs{self.mbs}"]
        if self.schedule not in ("1f1b", "interleaved"):
            parts.append(self.schedule)
        if self.cp > 1 and self.cp_comm != "p2p":
            parts.append(f"cp:{self.cp_comm}")
        if self.recompute == "selective":
            suffix = "" if self.stage_recompute is None else ":by-stage"
            parts.append("recompute:" + ("+".join(self.recompute_modules) or "selective") + suffix)
        elif self.recompute == "full":
            layers = self.recompute_layers if self.stage_recompute is None else "by-stage"
            parts.append("recompute:full" + ("" if layers is None else f":{layers}"))
        parts += self._techniques()
        if self.stage_layers is not None and len(set(self.stage_layers)) > 1:
            parts.append("uneven")
        return " ".join(parts)

    def _techniques(self) -> list[str]:
        shards = [("weights", self.weight_shard), ("gradients", self.gradient_shard)]
        parts = [f"{name}/{ranks}" for name, ranks in shards if ranks is not None]
        offloads = [("optimizer", self.offload_optimizer), ("activations", self.offload_activations)]
        parts += [f"{name}@{tier}" for name, tier in offloads if tier != "none"]
        if self.tp_overlap:
            parts.append("tp-overlap")
        if self.ep_overlap != "none":
            parts.append(f"ep-overlap:{self.ep_overlap}")
        if self.sync_period > 1:
            parts.append(f"sync:{self.sync_period}" + ("" if self.sync == "all_reduce" else f":{self.sync}"))
        if self.vocab_parallel:
            parts.append("vocab-pp")
        return parts

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

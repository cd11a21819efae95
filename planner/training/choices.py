"""The values every field of a strategy may take in a search: by default, by constraint, and where asked to explore."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..costs.stages import Chain, layouts_of
from ..strategy import CONTEXT_COMMS, EXPERT_OVERLAPS, OFFLOADS, RECOMPUTES, SCHEDULES, SYNCS, Constraints, Schedule
from ..workload.legality import Facts
from ..workload.strategy_table import ALL_LAYERS, Ints, module_bits
from ..workload.training import Technique

DEFAULT_SCHEDULES: tuple[Schedule, ...] = ("1f1b", "interleaved")
LAYER_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96)
SYNC_PERIODS = (1, 100)
DOMAIN = -1  # a partition over the ranks of one scale-up domain, resolved when tp and cp are known
LEAF_FIELDS = (
    "dp_replicate",
    "dp_shard",
    "zero",
    "weight_shard",
    "gradient_shard",
    "sync_period",
    "sync",
    "vpp",
    "schedule",
    "layout",
    "vocab_parallel",
    "recompute",
    "recompute_layers",
    "recompute_modules",
    "offload_optimizer",
    "offload_activations",
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a search may try: the job's constraints and techniques, devices per scale-up domain, and whether attention
    keeps its scores for backward, so that recomputing it alone frees memory."""

    constraints: Constraints
    explore: tuple[Technique, ...] = ()
    domain: int = 8
    scores_saved: bool = False


@functools.lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*low, *(number // d for d in low)}))


class Choices:
    """Values per field for a model, a job's facts and a scope."""

    def __init__(self, chain: Chain, facts: Facts, scope: Scope) -> None:
        self.chain = chain
        self.facts = facts
        self.scope = scope
        self._pipelines: dict[int, list[tuple[int, int, int, int]]] = {}

    def of_nodes(self, tp: Ints) -> tuple[Sequence[int], ...]:
        """Values of sp, ep, etp, cp_comm, tp_overlap and ep_overlap."""
        f, c = self.facts, self.scope.constraints
        return (
            (1, 0) if not f.experts or c.sp is not None or 1 in tp else (1,),
            self.kept("ep", _common_divisors(f.experts)),
            self.kept("etp", _expert_tensor(tp, f, bool(c.etp))),
            self._words("cp_comm", CONTEXT_COMMS, "context"),
            self._switch("tp_overlap", "tp_overlap"),
            self._words("ep_overlap", EXPERT_OVERLAPS, "expert_overlap"),
        )

    def of_leaves(self, pp: int, dp: int, sharded_cp: bool, whole_rounds: bool) -> Ints:
        """Every leaf choice, one a row, in LEAF_FIELDS; `whole_rounds` says that pp divides the micro-batches, as
        interleaving needs."""
        shards = self._shardings(pp, dp, sharded_cp)
        offloads = [
            (states, activations)
            for states in self._tiers("offload_optimizer")
            for activations in self._tiers("offload_activations")
        ]
        rows = []
        for vpp, schedule, layout, spread in self.pipelines(pp):
            if vpp > 1 and not whole_rounds:
                continue
            per_chunk = -(-self.facts.layers // (pp * vpp))
            for recompute, layers, bits in self._recomputes(per_chunk):
                for offload in offloads:
                    pipeline = (vpp, schedule, layout, spread, recompute, layers, bits)
                    rows += [(*shard, *pipeline, *offload) for shard in shards]
        return np.array(rows, np.int64).reshape(len(rows), len(LEAF_FIELDS))

    def _shardings(self, pp: int, dp: int, sharded_cp: bool) -> list[tuple[int, ...]]:
        """(dp_replicate, dp_shard, zero, weight_shard, gradient_shard, sync_period, sync): nothing sharded, or each way
        to shard over part of dp, but for those that `further` divides more of."""
        result: list[tuple[int, ...]] = []
        stages = self.kept("zero", (0, 1, 2, 3))
        for zero in stages:
            if zero == 0:
                options = [(dp, 1)]
            elif zero >= 2 and pp > 1 and (1 in stages or not self.divides_pipelines()):
                continue
            else:
                options = [(dp // shard, shard) for shard in divisors(dp) if shard > 1 or sharded_cp or 0 not in stages]
            for replicate, shard in options:
                if self._allows("dp_replicate", replicate) and self._allows("dp_shard", shard):
                    result += [
                        (replicate, shard, zero, *partition, *sync)
                        for partition in self._partitions(zero)
                        for sync in self._syncs(replicate)
                    ]
        return result

    def further(self, pp: int) -> list[tuple[int, int, int]]:
        """(zero, weight_shard, gradient_shard) of every way to divide gradients, or weights as well, of a strategy that
        divides its optimizer states over the same ranks of a pipeline; all else may stay as it is."""
        stages = self.kept("zero", (0, 1, 2, 3))
        if pp == 1 or 1 not in stages or not self.divides_pipelines():
            return []
        return [(zero, *partition) for zero in stages if zero >= 2 for partition in self._partitions(zero)]

    def _syncs(self, replicate: int) -> list[tuple[int, int]]:
        """(sync_period, sync): how often replicas average, and how when not in every step."""
        periods = self._numbers("sync_period", SYNC_PERIODS, "low_communication", 1) if replicate > 1 else (1,)
        kinds = self._words("sync", SYNCS, "low_communication")
        return [(period, kind) for period in periods for kind in (kinds if period > 1 else (0,))]

    def _partitions(self, zero: int) -> list[tuple[int, int]]:
        """(weight_shard, gradient_shard): all ranks, a domain for weights (ZeRO++), or a domain for both (MiCS)."""
        weights = self._numbers("weight_shard", (0, DOMAIN), "partition", 0) if zero == 3 else (0,)
        gradients = self._numbers("gradient_shard", (0, DOMAIN), "partition", 0) if zero >= 2 else (0,)
        return [(w, g) for w in weights for g in gradients]

    def pipelines(self, pp: int) -> list[tuple[int, int, int, int]]:
        """(vpp, schedule, layout, vocab_parallel) of every number of virtual stages that the layers can fill."""
        if pp not in self._pipelines:
            self._pipelines[pp] = self._pipelines_of(pp)
        return self._pipelines[pp]

    def _pipelines_of(self, pp: int) -> list[tuple[int, int, int, int]]:
        result = []
        spreads = self._switch("vocab_parallel", "vocabulary")
        layers = self.facts.layers
        for schedule in self.scope.constraints.schedule or DEFAULT_SCHEDULES:
            options: Sequence[int] = (1,)
            if schedule == "interleaved":
                options = range(2, (layers + 2) // pp + 1) if pp > 1 else ()
            for vpp in options:
                for spread in spreads if schedule == "1f1b" and 1 < pp <= layers else (0,):
                    if self._allows("vpp", vpp) and spread in spreads:
                        layouts = layouts_of(self.chain, schedule, pp, vpp, spread)
                        result += [(vpp, SCHEDULES.index(schedule), layout, spread) for layout in layouts]
        return result

    def _recomputes(self, per_chunk: int) -> list[tuple[int, int, int]]:
        """(recompute, recompute_layers, recompute_modules): nothing, each useful set of modules, or whole layers."""
        result = []
        for name in self.kept("recompute", RECOMPUTES):
            code = RECOMPUTES.index(name)
            if name == "none":
                result.append((code, ALL_LAYERS, 0))
            elif name == "selective":
                result += [(code, ALL_LAYERS, bits) for bits in self.module_sets()]
            else:
                counts = [n for n in LAYER_COUNTS if n < per_chunk]
                result += [(code, n, 0) for n in (*counts, ALL_LAYERS)]
        return result

    def module_sets(self) -> tuple[int, ...]:
        """Sets of recompute modules worth trying: from the cheapest per byte freed to the whole of an MLP."""
        have = set(self.facts.modules)
        wanted: list[tuple[str, ...]] = [("core_attention",)] if self.scope.scores_saved else []
        wanted.append(("norm",))
        if "experts" in have:
            wanted += [("activation",), ("norm", "activation"), ("norm", "experts")]
        else:
            wanted += [("mlp",), ("norm", "mlp")]
        if "mla_up" in have:
            wanted += [("mla_up",), ("mla_up", "mlp"), ("mla_up", "norm", "activation"), ("mla_up", "norm", "experts")]
        sets = [module_bits(each) for each in wanted if set(each) <= have]
        return tuple(dict.fromkeys(sets))

    def kept(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Those of the values that a constraint leaves."""
        wanted = getattr(self.scope.constraints, name)
        return [value for value in values if not wanted or value in wanted]

    def _allows(self, name: str, value: int) -> bool:
        wanted = getattr(self.scope.constraints, name)
        return not wanted or value in wanted

    def _numbers(self, name: str, explored: Sequence[int], technique: Technique, default: int) -> Sequence[int]:
        """A constraint's values, those to explore, or the default alone."""
        wanted: Sequence[int] = getattr(self.scope.constraints, name)
        if wanted:
            return wanted
        return explored if technique in self.scope.explore else (default,)

    def _words(self, name: str, words: Sequence[str], technique: Technique) -> Sequence[int]:
        """Positions of a constraint's words, of all to explore, or of the first alone."""
        wanted: Sequence[str] = getattr(self.scope.constraints, name)
        if wanted:
            return [words.index(word) for word in wanted]
        return range(len(words)) if technique in self.scope.explore else (0,)

    def _switch(self, name: str, technique: Technique) -> tuple[int, ...]:
        """A constraint's value, both to explore, or off."""
        wanted = getattr(self.scope.constraints, name)
        if wanted is not None:
            return (int(wanted),)
        return (0, 1) if technique in self.scope.explore else (0,)

    def may_spread(self) -> bool:
        """Whether some leaf divides the vocabulary over pipeline ranks."""
        return 1 in self._switch("vocab_parallel", "vocabulary")

    def divides_pipelines(self) -> bool:
        """Whether some leaf divides the gradients or weights of pipelines, as named or explored."""
        wanted = self.scope.constraints.zero
        return "pipeline_sharding" in self.scope.explore or any(zero >= 2 for zero in wanted)

    def may_offload(self) -> bool:
        """Whether some leaf keeps its optimizer states off the device."""
        return any(self._tiers("offload_optimizer"))

    def _tiers(self, name: str) -> Sequence[int]:
        known = ("none", *self.facts.tiers)
        return [code for code in self._words(name, OFFLOADS, "offload") if OFFLOADS[code] in known]


def _common_divisors(counts: tuple[int, ...]) -> tuple[int, ...]:
    if not counts:
        return (1,)
    return tuple(d for d in divisors(counts[0]) if all(count % d == 0 for count in counts))


def _expert_tensor(tp: Ints, f: Facts, constrained: bool) -> tuple[int, ...]:
    """Experts whole or divided as attention is (Megatron-LM's default); other degrees when a constraint names them."""
    if not f.experts:
        return (1,)
    degrees = np.unique(tp).tolist()
    return tuple(sorted({1, *degrees, *(d for each in degrees for d in divisors(each) if constrained)}))

"""Which blocks every pipeline rank holds, and how many micro-batches of each are alive at its worst moment.

The result depends on (pp, vpp, schedule, layout, recomputed layers, micro-batches) only, and of the stages of one
pipeline only those that no other stage outweighs in every respect are kept: usually two or three.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from shardwright.models import Block, ModelGraph, block_flops_per_token

from ..strategy import SCHEDULES
from ..workload.strategy_table import ALL_LAYERS, BALANCED, CUSTOM, EVEN, Ints, StrategyTable, row_codes
from .keys import Floats
from .ranks import ALIKE, DeviceRanks

UNEVEN_ROUNDS = 0.471


@dataclass(frozen=True, slots=True)
class Chain:
    """A model as its layers in order, with the other blocks attached to the layers they stand beside.

    `layers[i]` is the block of layer i. `first`, `last`: how many of each block stand before the first and after the
    last layer; `beside[i]` those between layers i - 1 and i. `weight` is the compute of each block relative to the
    commonest layer's. `ranks` are the devices that share the chain.
    """

    blocks: tuple[Block, ...]
    layers: Ints
    first: Ints
    last: Ints
    beside: Ints
    weight: Floats
    ranks: DeviceRanks


@dataclass(frozen=True, slots=True)
class Stages:
    """Arrays [pipelines, stages, blocks] over the stages worth looking at, and [pipelines, blocks] over all of them.

    `count`: blocks held. `again`: those fully recomputed. `live`, `live_inputs`: blocks × micro-batches alive at the
    worst moment, with everything saved or with their input only. `slowness` and `tightness` of every stage are its
    devices', [pipelines, stages]; `slow_total` and `slow_again` are totals weighted by slowness. `uneven` [pipelines]
    is how much longer interleaving takes for virtual stages that are not alike (see `unevenness`).
    """

    count: Floats
    again: Floats
    live: Floats
    live_inputs: Floats
    slowness: Floats
    tightness: Floats
    total: Floats
    slow_total: Floats
    slow_again: Floats
    uneven: Floats


def chain(model: ModelGraph, sequence: int, ranks: DeviceRanks = ALIKE) -> Chain:
    """The chain of a model on some devices; weights use forward FLOPs at that sequence length."""
    blocks = model.blocks
    position = {block: i for i, block in enumerate(blocks)}
    layers: list[int] = []
    pending = np.zeros(len(blocks), np.int64)
    first = np.zeros(len(blocks), np.int64)
    beside: list[NDArray[np.int64]] = []
    for run in model.runs:
        for _ in range(run.repeat):
            if run.block.role != "layer":
                pending[position[run.block]] += 1
                continue
            if not layers:
                first, pending = pending, np.zeros(len(blocks), np.int64)
            beside.append(pending)
            pending = np.zeros(len(blocks), np.int64)
            layers.append(position[run.block])
    order = np.array(layers, np.int64)
    flops = np.array([block_flops_per_token(block, sequence) for block in blocks])
    common = flops[np.bincount(order, minlength=len(blocks)).argmax()] if layers else 1.0
    stacked = np.stack(beside) if beside else np.zeros((0, len(blocks)), np.int64)
    return Chain(blocks, order, first, pending, stacked, flops / max(common, 1.0), ranks)


def vocabulary(model: Chain) -> Floats:
    """Blocks that vocabulary parallelism divides over all pipeline ranks: how many there are of each."""
    divided = np.array([float(block.role in ("embedding", "head")) for block in model.blocks])
    return np.asarray(divided * (model.first + model.last))


def without_vocabulary(model: Chain) -> Chain:
    """The chain with nothing of the vocabulary on its ends."""
    kept = (vocabulary(model) == 0).astype(np.int64)
    return replace(model, first=model.first * kept, last=model.last * kept)


def layers_by_layout(model: Chain, schedule: str, pp: int, vpp: int, layout: int, spread: int = 0) -> Ints:
    """Layers of every virtual stage for EVEN or BALANCED; with `spread` the vocabulary is divided over all ranks."""
    if spread:
        model = without_vocabulary(model)
    count = len(model.layers)
    arms = 2 if schedule == "zb-v" else vpp
    if layout == EVEN:
        return np.full(pp * arms, count // (pp * arms), np.int64)
    ranks = placed(np.arange(pp * arms), schedule, pp)[:arms]
    home = np.empty(pp * arms, np.int64)
    home[ranks] = np.arange(pp)
    least = np.ones(pp * arms, np.int64)
    if pp * arms > 1 and not spread:
        least[[0, -1]] = 0  # the embedding and the head may stand alone on a virtual stage
    if least.sum() > count:
        least[:] = 0
    slowness, _ = model.ranks.of_stages(pp)
    load: Floats = np.bincount(home, weights=least, minlength=pp).astype(np.float64)
    load[home[-1]] += float(model.last @ model.weight)
    load[home[0]] += float(model.first @ model.weight)
    load = load * slowness
    per_rank = np.bincount(home, weights=least, minlength=pp).astype(np.int64)
    for _ in range(count - int(per_rank.sum())):
        rank = pp - 1 - int(np.argmin((load + slowness - 1.0)[::-1]))
        per_rank[rank] += 1
        load[rank] += slowness[rank]
    result = np.zeros(pp * arms, np.int64)
    for rank in range(pp):
        chunks = ranks[:, rank]
        base, extra = divmod(int(per_rank[rank]), arms)
        result[chunks] = base
        result[chunks[arms - extra :] if rank == home[0] and rank != home[-1] else chunks[:extra]] += 1
    if schedule == "interleaved":
        chunks = ranks[:, home[-1]]
        result[chunks] = _before_head(int(per_rank[home[-1]]), least[chunks], float(model.last @ model.weight))
    return result


def _before_head(count: int, least: Ints, head: float) -> Ints:
    """Layers of the virtual stages of the rank that holds the head, so that the head's stage is no heavier than need
    be: a round goes at the pace of its heaviest."""
    result = least.copy()
    load = least.astype(np.float64)
    load[-1] += head
    for _ in range(count - int(least.sum())):
        lightest = int(np.argmin(load))
        result[lightest] += 1
        load[lightest] += 1.0
    return result


def placed(chunks: NDArray[Any], schedule: str, pp: int) -> NDArray[Any]:
    """Values of the virtual stages in chain order as [pieces per rank, pp, ...].

    Interleaving deals them round robin; ZB-V goes there and back (Qi et al. 2024, section 6); DualPipe has a second
    copy of the model that runs from the last rank to the first (DeepSeek-V3 report, section 3.2.1).
    """
    grid = chunks.reshape(-1, pp, *chunks.shape[1:])
    if schedule == "zb-v":
        return np.stack([grid[0], grid[1][::-1]])
    if schedule == "dualpipe":
        return np.stack([grid[0], grid[0][::-1]])
    return grid


def live_microbatches(schedule: str, pp: int, vpp: int, microbatches: int) -> NDArray[np.int64]:
    """Micro-batches alive per (piece, rank) when memory peaks, in the shape of `placed`.

    GPipe keeps all, but without a pipeline one is done before the next. 1F1B keeps pp - p on rank p (Narayanan et al.
    2019), ZB-H1 pp, since inputs wait for weight gradients (Qi et al. 2024, section 2.3). Interleaved 1F1B has
    2 (pp - p - 1) + (vpp - 1) pp + 1 virtual micro-batches under way, pp of each piece at a time
    (Narayanan et al. 2021, section 2.2; Megatron-LM schedules.py). ZB-V has at most 2 pp
    pieces under way on a rank, DualPipe pp + 1 (DeepSeek-V3 report, Table 2).
    """
    rank = np.arange(pp)
    if schedule == "gpipe" and pp > 1:
        return np.full((vpp, pp), microbatches, np.int64)
    if schedule == "zb-h1":
        return np.full((1, pp), min(pp, microbatches), np.int64)
    if schedule == "zb-v":
        return np.minimum(np.stack([2 * pp - 1 - rank, rank + 1]), microbatches)
    if schedule == "dualpipe":
        return np.stack([np.full(pp, -(-(pp + 1) // 2)), np.full(pp, (pp + 1) // 2)])
    if schedule != "interleaved":
        return np.minimum(pp - rank, microbatches)[None, :]
    under_way = np.minimum((pp - rank - 1) * 2 + (vpp - 1) * pp + 1, microbatches * vpp)
    cycles, rest = np.divmod(under_way, pp * vpp)
    chunk = np.arange(vpp)[:, None]
    return cycles * pp + np.clip(rest - chunk * pp, 0, pp)


class Pipelines:
    """The stages of every pipeline a chain was asked for, each worked out once."""

    def __init__(self, model: Chain) -> None:
        self.chain = model
        self.sums = block_sums(model)
        self._layers: dict[tuple[int, ...], Ints] = {}
        self._stages: dict[tuple[int, ...], _Kept] = {}

    def layers(self, table: StrategyTable, row: int) -> Ints:
        """Layers of every virtual stage of one row, in chain order."""
        layout = int(table.layout[row])
        if layout >= CUSTOM:
            return np.array(table.custom_layouts[layout - CUSTOM], np.int64)
        fields = (table.schedule, table.pp, table.vpp, table.layout, table.vocab_parallel)
        key = tuple(int(column[row]) for column in fields)
        if key not in self._layers:
            self._layers[key] = layers_by_layout(self.chain, SCHEDULES[key[0]], *key[1:])
        return self._layers[key]

    def recomputed(self, table: StrategyTable, row: int, full: int) -> int | Ints:
        """Fully recomputed layers of every virtual stage of one row, at most."""
        layout = int(table.layout[row])
        own = table.custom_recomputes[layout - CUSTOM] if layout >= CUSTOM else ()
        return np.array(own, np.int64) if own else full

    def of(self, table: StrategyTable, microbatches: Ints, every: bool = False) -> tuple[Stages, NDArray[np.int64]]:
        """Stages of every distinct pipeline of a table, and for every row the position of its pipeline.

        With `every` no stage is left out, so stage i is pipeline rank i; the rows must then share one pp.
        """
        full = np.where(table.recompute == 2, table.recompute_layers, 0)
        limit = np.minimum(microbatches, _most_alive(table))
        columns = (table.pp, table.vpp, table.schedule, table.layout, full, limit, table.vocab_parallel)
        first, inverse = row_codes(columns)
        keys = np.stack([column[first] for column in columns], axis=1).tolist()
        kept = [self._kept(table, int(i), tuple(key), every) for i, key in zip(first, keys, strict=True)]
        lengths = np.array([len(each.slowness) for each in kept], np.int64)
        numbers = np.arange(lengths.max(initial=1))
        places = (np.cumsum(lengths) - lengths)[:, None] + np.where(numbers < lengths[:, None], numbers, 0)

        def padded(name: str) -> Floats:  # the first stage repeated until there are as many as of any other
            return np.asarray(np.concatenate([getattr(each, name) for each in kept])[places])

        stages = Stages(
            **{name: padded(name) for name in ("count", "again", "live", "live_inputs", "slowness", "tightness")},
            **{name: np.stack([getattr(each, name) for each in kept]) for name in _Kept.TOTALS},
        )
        return stages, inverse

    def _kept(self, table: StrategyTable, row: int, key: tuple[int, ...], every: bool) -> _Kept:
        """The stages of one row's pipeline; custom layouts and complete lists are not remembered."""
        lasting = not every and int(table.layout[row]) < CUSTOM
        if lasting and key in self._stages:
            return self._stages[key]
        pp, vpp, schedule, _, most, limit, spread = key
        full = self.recomputed(table, row, most)
        live = live_microbatches(SCHEDULES[schedule], pp, vpp, limit)
        layers = self.layers(table, row)
        if spread:
            model, live = without_vocabulary(self.chain), np.minimum(live + 1, limit)
            part = with_vocabulary(
                self.chain, pipeline_stages(model, self.sums, layers, SCHEDULES[schedule], live, full)
            )
        else:
            part = pipeline_stages(self.chain, self.sums, layers, SCHEDULES[schedule], live, full)
        slowness, tightness = self.chain.ranks.of_stages(pp)
        keep = np.arange(pp) if every else _heaviest(part, self.chain.ranks.alike, slowness, tightness)
        made = _Kept(
            count=part[0][keep],
            again=part[1][keep],
            live=part[2][keep],
            live_inputs=part[3][keep],
            slowness=slowness[keep],
            tightness=tightness[keep],
            total=part[0].sum(axis=0),
            slow_total=slowness @ part[0],
            slow_again=slowness @ part[1],
            uneven=unevenness(self.chain, layers, pp, slowness) if vpp > 1 else np.zeros(()),
        )
        if lasting:
            self._stages[key] = made
        return made


@dataclass(frozen=True, slots=True)
class _Kept:
    """The stages worth looking at of one pipeline, [stages, blocks] or [stages], and totals over all, [blocks]."""

    count: Floats
    again: Floats
    live: Floats
    live_inputs: Floats
    slowness: Floats
    tightness: Floats
    total: Floats
    slow_total: Floats
    slow_again: Floats
    uneven: Floats
    TOTALS: ClassVar = ("total", "slow_total", "slow_again", "uneven")


def _most_alive(table: StrategyTable) -> Ints:
    """Micro-batches beyond which a schedule keeps no more of them alive."""
    result: Ints = np.where(table.schedule == SCHEDULES.index("gpipe"), ALL_LAYERS, 2 * table.pp)
    alike = (table.schedule == SCHEDULES.index("1f1b")) | (table.schedule == SCHEDULES.index("zb-h1"))
    result[alike] = (table.pp + table.vocab_parallel)[alike]
    return result


def block_sums(model: Chain) -> tuple[Floats, Floats]:
    """Of every block, how many of the layers before each layer are one, and how many stand beside those."""
    width = len(model.blocks)
    held = np.zeros((len(model.layers) + 1, width))
    beside = np.zeros((len(model.layers) + 1, width))
    np.cumsum(np.eye(width)[model.layers], axis=0, out=held[1:])
    np.cumsum(model.beside, axis=0, out=beside[1:])
    return held, beside


def pipeline_stages(
    model: Chain,
    sums: tuple[Floats, Floats],
    layers: Ints,
    schedule: str,
    live: NDArray[np.int64],
    recomputed: int | Ints,
) -> tuple[Floats, Floats, Floats, Floats]:
    """`count`, `again`, `live`, `live_inputs` of every rank of one pipeline, each [pp, blocks].

    `sums` are the model's `block_sums`. The first `recomputed` layers of every virtual stage, one number for all or one
    each, are recomputed.
    """
    pp = live.shape[1]
    held, beside = sums
    end = np.cumsum(layers)
    start = end - layers
    middle = np.minimum(start + recomputed, end)
    again = placed(held[middle] - held[start], schedule, pp)
    other = held[end] - held[middle] + beside[end] - beside[start]
    other[0] += model.first
    other[-1] += model.last
    other = placed(other, schedule, pp)
    weight = live[:, :, None]
    return (
        (again + other).sum(axis=0),
        again.sum(axis=0),
        (other * weight).sum(axis=0),
        (again * weight).sum(axis=0),
    )


def with_vocabulary(model: Chain, part: tuple[Floats, Floats, Floats, Floats]) -> tuple[Floats, Floats, Floats, Floats]:
    """The stages with an equal share of the vocabulary each, one micro-batch of which is alive.

    The output layer's passes on all ranks meet in one barrier, for which one more micro-batch is under way than in
    1F1B (Yeung et al. 2025, "Balancing Pipeline Parallelism with Vocabulary Parallelism", sections 4 and 5).
    """
    count, again, live, live_inputs = part
    share = vocabulary(model) / len(count)
    return count + share, again, live + share, live_inputs


def unevenness(model: Chain, layers: Ints, pp: int, slowness: Floats) -> Floats:
    """By what share interleaved virtual stages that are not alike prolong the work of the slowest rank.

    Ranks take turns on virtual stages of one round, so that a round goes at the pace of its heaviest; the micro-batches
    under way absorb part of that. UNEVEN_ROUNDS is what is left of it in event walks (`benchmarks.uneven_rounds`).
    """
    end = np.cumsum(layers)
    inside = np.concatenate([[0.0], np.cumsum(model.weight[model.layers] + model.beside @ model.weight)])
    load = inside[end] - inside[end - layers]
    load[0] += float(model.first @ model.weight)
    load[-1] += float(model.last @ model.weight)
    rounds = load.reshape(-1, pp) * slowness
    heaviest = float(rounds.sum(axis=0).max())
    return np.asarray(UNEVEN_ROUNDS * (float(rounds.max(axis=1).sum()) / heaviest - 1.0))


def _heaviest(
    part: tuple[Floats, Floats, Floats, Floats], alike: bool, slowness: Floats, tightness: Floats
) -> NDArray[np.int64]:
    """Ranks that no other rank equals or exceeds in every count, in time or in room; of equal ranks the first."""
    count, again, live, live_inputs = part
    if alike:
        features = np.concatenate(part, axis=1)
    else:
        by_time = np.concatenate([count, again], axis=1) * slowness[:, None]
        by_room = np.concatenate([count, live, live_inputs, np.ones_like(count[:, :1])], axis=1) * tightness[:, None]
        features = np.concatenate([by_time, by_room, count], axis=1)
    features = features[:, (features != features[0]).any(axis=0)]
    at_least = (features[:, None, :] >= features[None, :, :]).all(axis=2)
    mutual = at_least & at_least.T
    earlier = np.triu(mutual, 1)
    outweighed = ((at_least & ~mutual) | earlier).any(axis=0)
    return np.flatnonzero(~outweighed)


def layouts_of(model: Chain, schedule: str, pp: int, vpp: int, spread: int = 0) -> tuple[int, ...]:
    """The layouts worth trying: EVEN where layers divide, BALANCED where it differs."""
    balanced = layers_by_layout(model, schedule, pp, vpp, BALANCED, spread)
    if len(model.layers) % len(balanced):
        return (BALANCED,)
    return (EVEN,) if np.all(balanced == balanced[0]) else (EVEN, BALANCED)

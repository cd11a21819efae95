"""Loads and flows of a placement counted again, expert by expert, from its routing and the links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.models import Routing

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Row = Sequence[Ints]


@dataclass(frozen=True, slots=True)
class Links:
    """Cost of moving a token between GPUs, the node of each and its speed."""

    cost: Floats
    node: Ints
    speed: Floats


@dataclass(frozen=True, slots=True)
class Walk:
    """Load of every GPU, [layers, gpus], and flow between GPUs over all layers, None where copies leave it open."""

    load: Floats
    flow: Floats | None


def walk(rows: Sequence[Row], routing: Routing, links: Links, *, evenly: bool) -> Walk:
    """Follow tokens from layer to layer; `rows[l][e]` are the GPUs of expert e.

    Every copy sends to the cheapest copies of the next expert, evenly among equals, and what arrives is its load. Asked
    `evenly`, or without transitions, the copies of an expert share its load.
    """
    gpus = len(links.node)
    copied = any(len(holders) > 1 for row in rows for holders in row)
    transitions = None if evenly and copied else routing.transitions
    load, flow = np.zeros((len(rows), gpus)), np.zeros((gpus, gpus))
    share = [np.full(len(holders), 1 / len(holders)) for holders in rows[0]]
    for layer, row in enumerate(rows):
        for expert, holders in enumerate(row):
            load[layer, holders] += routing.loads[layer, expert] * share[expert]
        if layer + 1 == len(rows):
            break
        if transitions is None:
            share = [np.full(len(holders), 1 / len(holders)) for holders in rows[layer + 1]]
            continue
        sent = np.zeros((gpus, len(row)))
        for expert, holders in enumerate(row):
            sent[holders] += share[expert][:, None] * transitions[layer, expert]
        share = [_sent_on(flow, links, sent[:, expert], holders) for expert, holders in enumerate(rows[layer + 1])]
    return Walk(load, None if transitions is None or len(rows) == 1 else flow)


def _sent_on(flow: Floats, links: Links, sent: Floats, holders: Ints) -> Floats:
    """Add what every GPU sends to an expert to the flow, and return the part of it that each of its copies gets."""
    price = links.cost[:, holders]
    near = price <= price.min(axis=1, keepdims=True) + 1e-12
    arriving = sent[:, None] * near / near.sum(axis=1, keepdims=True)
    flow[:, holders] += arriving
    got = arriving.sum(axis=0)
    total = float(got.sum())
    return got / total if total > 0 else np.full(len(holders), 1 / len(holders))


def reach(rows: Sequence[Row], ids: Ints, links: Links) -> tuple[float, float]:
    """Mean number of GPUs, and of nodes, that hold a token's experts in a layer; token t uses copy t modulo the copies
    of an expert."""
    token = np.arange(len(ids))[:, None]
    reached = np.zeros(2)
    for layer, row in enumerate(rows):
        copies = np.array([len(holders) for holders in row])
        table = np.zeros((len(row), int(copies.max())), dtype=np.int64)
        for expert, holders in enumerate(row):
            table[expert, : len(holders)] = holders
        used = table[ids[:, layer], token % copies[ids[:, layer]]]
        for at, place in enumerate((used, links.node[used])):
            ordered = np.sort(place, axis=1)
            reached[at] += 1 + np.count_nonzero(np.diff(ordered, axis=1)) / len(ids)
    gpus, nodes = (reached / len(rows)).tolist()
    return gpus, nodes

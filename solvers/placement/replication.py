"""How many copies each item gets."""

from __future__ import annotations

import heapq

import numpy as np

from .problem import Floats, Ints


def replicate(loads: Floats, spare: int, most: int) -> Ints:
    """Copies of every item, [layers, items], after giving `spare` extra ones to each layer.

    `loads[k, l, e]` counts per scenario; an item has at most `most` copies. Each extra copy goes to the item whose
    copies are heaviest in the worst scenario, which minimizes the heaviest copy (the greedy of EPLB, exact for this
    objective: an item gets its next copy only when no smaller maximum is possible without it).
    """
    layers, items = loads.shape[1:]
    if spare > items * (most - 1):
        raise ValueError(f"{spare} spare slots are more than {items} items with at most {most} copies can use")
    out = np.ones((layers, items), dtype=np.int64)
    peak = loads.max(axis=0)
    for layer in range(layers):
        heap = [(-float(weight), item) for item, weight in enumerate(peak[layer])]
        heapq.heapify(heap)
        left = spare
        while left:
            _, item = heapq.heappop(heap)
            out[layer, item] += 1
            left -= 1
            if out[layer, item] < most:
                heapq.heappush(heap, (-float(peak[layer, item]) / int(out[layer, item]), item))
    return out


def owners(copies: Ints, slots: int) -> Ints:
    """The item in every slot when item e has `copies[l, e]` copies: copies side by side, then empty slots (-1)."""
    out = np.full((len(copies), slots), -1, dtype=np.int64)
    for layer, row in enumerate(copies):
        held = np.repeat(np.arange(len(row)), row)
        out[layer, : len(held)] = held
    return out

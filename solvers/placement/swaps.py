"""The inner loop of the annealing: random swaps within layers whose neighbours stand still. Loads numba."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled, inlined


class Slots(NamedTuple):
    """What swaps do not change.

    `weights[k, l, s]` is the load of slot s in scenario k, `target[l]` the peak below which load is free, `unit[g]`
    what a unit of load on device g counts for, `owner[l, s]` the item whose copy is in slot s (-1: empty). `guarded`
    is 1 when two copies of one item must not share a device.
    """

    weights: NDArray[np.float64]
    target: NDArray[np.float64]
    unit: NDArray[np.float64]
    owner: NDArray[np.int64]
    guarded: int


class State(NamedTuple):
    """What swaps change: device of every slot, load of every device in fair shares, copies of items on devices."""

    device: NDArray[np.int64]
    loads: NDArray[np.float64]
    held: NDArray[np.int8]


class Pressure(NamedTuple):
    """How a swap is judged: temperature, weight of squared load above target, weight of the layer's peak."""

    temperature: float
    hinge: float
    peak: float


@compiled
def add_side_cost(
    flow: NDArray[np.float32],
    link_cost: NDArray[np.float32],
    device: NDArray[np.int64],
    layers: NDArray[np.int64],
    side: int,
    cost: NDArray[np.float32],
) -> None:
    """Add to `cost[l, g, s]` what slot s of layer l costs on device g because of the layer `side` (1 or -1) beside it.

    `flow[i][o, s]` runs between slot o of the layer beside and slot s; `link_cost[g, h]` is from g, where s would be.
    A device's row is built on that of the device before, from which it differs in few links.
    """
    slots = cost.shape[2]
    near = np.empty((cost.shape[1], slots), dtype=np.float32)
    row = np.empty(slots, dtype=np.float32)
    for layer in layers:
        beside = layer + side
        if beside < 0 or beside >= device.shape[0]:
            continue
        index = min(layer, beside)
        for there in range(near.shape[0]):
            for slot in range(slots):
                near[there, slot] = 0.0
        for other in range(slots):
            there = device[beside, other]
            for slot in range(slots):
                near[there, slot] += flow[index, other, slot]
        for slot in range(slots):
            row[slot] = 0.0
        for here in range(link_cost.shape[0]):
            for there in range(link_cost.shape[1]):
                change = link_cost[here, there] - (link_cost[here - 1, there] if here > 0 else np.float32(0.0))
                if change != 0.0:
                    for slot in range(slots):
                        row[slot] += change * near[there, slot]
            for slot in range(slots):
                cost[layer, here, slot] += row[slot]


@inlined
def _hinge_change(slots: Slots, state: State, layer: np.int64, first: np.int64, second: np.int64) -> float:
    here, there = state.device[layer, first], state.device[layer, second]
    target = slots.target[layer]
    change = 0.0
    for k in range(state.loads.shape[0]):
        moved = slots.weights[k, layer, first] - slots.weights[k, layer, second]
        old_here, old_there = state.loads[k, layer, here], state.loads[k, layer, there]
        a = max(0.0, old_here - moved * slots.unit[here] - target)
        b = max(0.0, old_there + moved * slots.unit[there] - target)
        c, d = max(0.0, old_here - target), max(0.0, old_there - target)
        change += a * a + b * b - c * c - d * d
    return change


@inlined
def _new_peak(slots: Slots, state: State, layer: np.int64, first: np.int64, second: np.int64, peak: float) -> float:
    here, there = state.device[layer, first], state.device[layer, second]
    after, touched = 0.0, False
    for k in range(state.loads.shape[0]):
        moved = slots.weights[k, layer, first] - slots.weights[k, layer, second]
        old_here, old_there = state.loads[k, layer, here], state.loads[k, layer, there]
        after = max(after, old_here - moved * slots.unit[here], old_there + moved * slots.unit[there])
        touched = touched or old_here >= peak or old_there >= peak
    if not touched:
        return max(peak, after)
    for k in range(state.loads.shape[0]):
        for device in range(state.loads.shape[2]):
            if device != here and device != there:
                after = max(after, state.loads[k, layer, device])
    return after


@inlined
def _swap(slots: Slots, state: State, layer: np.int64, first: np.int64, second: np.int64) -> None:
    here, there = state.device[layer, first], state.device[layer, second]
    for k in range(state.loads.shape[0]):
        moved = slots.weights[k, layer, first] - slots.weights[k, layer, second]
        state.loads[k, layer, here] -= moved * slots.unit[here]
        state.loads[k, layer, there] += moved * slots.unit[there]
    state.device[layer, first] = there
    state.device[layer, second] = here
    if slots.guarded:
        a, b = slots.owner[layer, first], slots.owner[layer, second]
        if a >= 0:
            state.held[layer, a, here] -= 1
            state.held[layer, a, there] += 1
        if b >= 0:
            state.held[layer, b, there] -= 1
            state.held[layer, b, here] += 1


@inlined
def _forbidden(slots: Slots, state: State, layer: np.int64, first: np.int64, second: np.int64) -> bool:
    here, there = state.device[layer, first], state.device[layer, second]
    a, b = slots.owner[layer, first], slots.owner[layer, second]
    if a == b:
        return True
    return bool((a >= 0 and state.held[layer, a, there] > 0) or (b >= 0 and state.held[layer, b, here] > 0))


@inlined
def _accepts(change: float, temperature: float, draw: float) -> bool:
    if change < -1e-12:
        return True
    return temperature > 0.0 and change < 16.0 * temperature and draw < math.exp(-change / temperature)


@compiled
def sweep(
    cost: NDArray[np.float32],
    slots: Slots,
    state: State,
    pressure: Pressure,
    layers: NDArray[np.int64],
    proposals: NDArray[np.uint64],
) -> int:
    """Try `proposals[0]` random swaps in each of the layers, in place; `proposals[1]` is the seed, moved on.

    `cost[l, g, s]` is what slot s costs on device g while the layers beside l stand still, so that the cost change of
    a swap is exact. Returns the number of swaps made. Random numbers: Marsaglia, "Xorshift RNGs" (2003).
    """
    bits = proposals[1]
    count = state.device.shape[1]
    made = 0
    for layer in layers:
        peak = 0.0
        for k in range(state.loads.shape[0]):
            for device in range(state.loads.shape[2]):
                peak = max(peak, state.loads[k, layer, device])
        for _ in range(proposals[0]):
            bits ^= bits << np.uint64(13)
            bits ^= bits >> np.uint64(7)
            bits ^= bits << np.uint64(17)
            first = np.int64((bits & np.uint64(0xFFFFFF)) * np.uint64(count) >> np.uint64(24))
            second = np.int64((bits >> np.uint64(24) & np.uint64(0xFFFFFF)) * np.uint64(count) >> np.uint64(24))
            here, there = state.device[layer, first], state.device[layer, second]
            if here == there or (slots.guarded and _forbidden(slots, state, layer, first, second)):
                continue
            change = float(
                cost[layer, there, first]
                - cost[layer, here, first]
                + cost[layer, here, second]
                - cost[layer, there, second]
            )
            if pressure.hinge > 0.0:
                change += pressure.hinge * _hinge_change(slots, state, layer, first, second)
            after = peak
            if pressure.peak > 0.0:
                after = _new_peak(slots, state, layer, first, second, peak)
                change += pressure.peak * (after - peak)
            draw = np.float64(bits >> np.uint64(41)) / 8388608.0
            if _accepts(change, pressure.temperature, draw):
                _swap(slots, state, layer, first, second)
                peak = after
                made += 1
    proposals[1] = bits
    return made

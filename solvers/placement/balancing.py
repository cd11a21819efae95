"""Balancing without traffic: devices exchange slots in random pairs while it is warm, then the fullest give way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .annealing import Annealed
from .bounds import peak_floors
from .exchanges import Singles, Table, Whole
from .problem import PlacementProblem
from .slots import SlotPlacement, even_weights

ROUNDS = 80
HOT, COLD = 0.05, 0.0005
NOISE = 1 << 17
MOST_LOOKED_AT = 64
MOST_PARTNERS = 96
MOST_STEPS = 400
ENOUGH = 2e-5


def balance(problem: PlacementProblem, start: SlotPlacement, seed: int = 0) -> Annealed:
    """Lower every layer's peak from `start`, the copies of an item sharing its load evenly; same seed, same answer.

    All layers are worked on at once. First every device meets a random other one and the two exchange the pair of slots
    that a heat bath on their squared deviation from fair load draws (Geman and Geman, "Stochastic relaxation", 1984).
    Then the fullest device of a layer makes the exchange with one of the lightest that leaves the lower peak, until
    none helps. No exchange brings two copies of an item together. A layer that gains nothing stays as it was.
    """
    weights = even_weights(problem, start.owner)
    target = peak_floors(problem, weights) * (1 + ENOUGH)
    best, work = start.device.copy(), 0
    peaks = Table(problem, start, weights).peaks()
    for warm in (False, True):
        table = Table(problem, start, weights)
        if warm:
            work += _mix(table, peaks > target, seed)
        work += _descend(table, target, seed)
        reached = table.peaks()
        gained = reached < peaks
        best[gained], peaks = table.devices()[gained], np.minimum(peaks, reached)
        if not np.any(peaks > target):
            break
    return Annealed(SlotPlacement(start.owner, best), work)


def _mix(table: Table, open_layers: NDArray[np.bool_], seed: int) -> int:
    """Heat bath over random pairs of devices in the open layers, cooling from exchanges of slots to single ones."""
    devices, looked_at = table.devices_, min(table.places, MOST_LOOKED_AT)
    rng = np.random.default_rng(seed)
    noise = rng.gumbel(size=NOISE).astype(np.float32)
    rows = np.flatnonzero(open_layers)[:, None] * devices
    half = devices // 2
    size = len(rows) * half * looked_at * looked_at
    if size == 0:
        return 0
    bank = np.resize(noise, max(NOISE, 2 * size))
    scale = float(table.weights.sum() / (table.slot >= 0).sum() * table.unit.mean() / len(table.weights))
    for temperature in (scale * np.geomspace(HOT, COLD, ROUNDS)) ** 2:
        order = rng.random((len(rows), devices), dtype=np.float32).argsort(axis=1)
        here, there = (rows + order[:, :half]).ravel(), (rows + order[:, half : 2 * half]).ravel()
        places = np.arange(table.places)
        if looked_at < table.places:
            places = rng.choice(table.places, looked_at, replace=False)
        energy, now = _energies(table, here, there, places)
        offset = int(rng.integers(0, len(bank) - size + 1))
        energy -= np.float32(temperature) * bank[offset : offset + size].reshape(energy.shape)
        best = energy.argmin(axis=1)
        now -= np.float32(temperature) * noise[rng.integers(0, NOISE, size=len(here))]
        go = np.flatnonzero(energy[np.arange(len(here)), best] < now)
        i, j = np.divmod(best[go], looked_at)
        table.exchange(here[go], places[i], there[go], places[j])
    return ROUNDS * size


def _energies(table: Table, here: Whole, there: Whole, places: Whole) -> tuple[Singles, Singles]:
    """Squared deviation of two devices' loads from fair after every exchange, [pairs, exchanges], and as it is now."""
    after: Singles = np.zeros((len(here), len(places), len(places)), dtype=np.float32)
    now: Singles = np.zeros(len(here), dtype=np.float32)
    for weights, loads in zip(table.weights, table.loads, strict=True):
        mine, theirs = weights[here][:, places], weights[there][:, places]
        moved = mine[:, :, None] - theirs[:, None, :]
        for rows, sign in ((here, -1), (there, 1)):
            excess = loads[rows] - 1
            now += table.value[rows] * excess * excess
            changed = excess[:, None, None] + moved * (sign * table.unit[rows])[:, None, None]
            changed *= changed
            changed *= table.value[rows][:, None, None]
            after += changed
    barred = table.barred(table.owner[here][:, places], table.owner[there][:, places])
    if barred is not None:
        after[barred] = np.inf
    return after.reshape(len(here), -1), now


def _descend(table: Table, target: NDArray[np.float64], seed: int) -> int:
    """Exchanges between the fullest and the lightest devices of each layer while the layer's peak falls."""
    devices = table.devices_
    rng = np.random.default_rng(seed)
    partners = int(np.clip(MOST_PARTNERS // table.places, 1, devices - 1)) if devices > 1 else 0
    layers = np.flatnonzero(table.peaks() > target) if partners else np.arange(0)
    work = 0
    for _ in range(MOST_STEPS):
        if not len(layers):
            break
        step = _best_exchange(table, layers, partners, rng)
        work += step.looked_at
        table.exchange(*(part[step.helps] for part in (step.here, step.i, step.there, step.j)))
        layers = layers[step.helps]
        layers = layers[table.peaks()[layers] > target[layers]]
    return work


@dataclass(frozen=True, slots=True)
class _Step:
    """The best exchange of each layer: place i of row `here` for place j of row `there`, and whether it helps."""

    here: Whole
    i: Whole
    there: Whole
    j: Whole
    helps: NDArray[np.bool_]
    looked_at: int


def _best_exchange(table: Table, layers: Whole, partners: int, rng: np.random.Generator) -> _Step:
    devices, count = table.devices_, np.arange(len(layers))
    rows = layers[:, None] * devices + np.arange(devices)
    worst = table.loads[:, rows].max(axis=0)
    full = worst.argmax(axis=1)
    here, peak = rows[count, full], worst[count, full]
    worst[count, full] = np.inf
    there = rows[count[:, None], np.argpartition(worst, partners - 1, axis=1)[:, :partners]]
    places = np.arange(table.places)
    if table.places > MOST_LOOKED_AT:
        places = rng.choice(table.places, MOST_LOOKED_AT, replace=False)
    after = np.full((len(layers), partners, len(places), len(places)), -np.inf, dtype=np.float32)
    for weights, loads in zip(table.weights, table.loads, strict=True):
        moved = weights[here][:, None, places, None] - weights[there][:, :, None, places]
        np.maximum(after, loads[here][:, None, None, None] - moved * table.unit[here][:, None, None, None], out=after)
        np.maximum(after, loads[there][:, :, None, None] + moved * table.unit[there][:, :, None, None], out=after)
    mine = np.broadcast_to(table.owner[here][:, None, places], (len(layers), partners, len(places)))
    barred = table.barred(mine, table.owner[there][:, :, places])
    if barred is not None:
        after[barred] = np.inf
    best = after.reshape(len(layers), -1).argmin(axis=1)
    at, i, j = np.unravel_index(best, after.shape[1:])
    helps = after.reshape(len(layers), -1)[count, best] < peak * (1 - 1e-6)
    return _Step(here, places[i], there[count, at], places[j], helps, after.size)

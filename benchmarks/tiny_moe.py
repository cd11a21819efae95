"""A tiny mixture-of-experts byte model that routes a text, to try `shardwright experts` without a download.

    python -m benchmarks.tiny_moe TEXT OUT.npy [--layers 6] [--experts 16] [--seed 0]

Writes the two best expert ids of every byte in every layer, [tokens, layers, 2]. The weights are random and nothing is
trained but the routers' balance: a byte's state is its embedding with those of the bytes before it faded in, every
layer adds its experts' vectors to the state, and biases on the routers are moved against overloaded experts until loads
are nearly even, as DeepSeek-V3 does (technical report, section 2.1.2). As states pass from layer to layer, consecutive
layers agree on what belongs together, like those of trained models.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

WIDTH = 24
KEPT = 2
FADE = 0.6
ADDED = 0.35
BALANCE_STEPS, BALANCE_RATE = 60, 0.15


def states(text: bytes, random: np.random.Generator) -> np.ndarray:
    """Every byte's embedding plus the faded state before it, scaled to unit length, [tokens, width]."""
    table = random.standard_normal((256, WIDTH))
    out = np.empty((len(text), WIDTH))
    state = np.zeros(WIDTH)
    for at, byte in enumerate(text):
        state = FADE * state + table[byte]
        out[at] = state / np.linalg.norm(state)
    return out


def balanced_ids(scores: np.ndarray) -> np.ndarray:
    """The best expert ids by score plus a bias that evens the load, [tokens, kept]."""
    tokens, experts = scores.shape
    bias = np.zeros(experts)
    ids = np.empty((tokens, KEPT), dtype=np.int64)
    for step in range(BALANCE_STEPS):
        ids = np.argsort(-(scores + bias), axis=1, kind="stable")[:, :KEPT]
        load = np.bincount(ids.ravel(), minlength=experts) * experts / ids.size
        bias -= BALANCE_RATE * (1 - step / BALANCE_STEPS) * np.clip(load - 1, -1, 1)
    return ids


def route(text: bytes, layers: int = 6, experts: int = 16, seed: int = 0) -> np.ndarray:
    """The expert ids of every byte, best first, [tokens, layers, 2]."""
    random = np.random.default_rng(seed)
    state = states(text, random)
    out = np.empty((len(text), layers, KEPT), dtype=np.int16)
    for layer in range(layers):
        router = random.standard_normal((WIDTH, experts))
        vectors = random.standard_normal((experts, WIDTH)) / np.sqrt(WIDTH)
        ids = balanced_ids(state @ router)
        out[:, layer] = ids
        state = state + ADDED * vectors[ids].sum(axis=1)
        state /= np.linalg.norm(state, axis=1, keepdims=True)
    return out


def main() -> None:
    """Write the trace of a text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    np.save(given.out, route(given.text.read_bytes(), given.layers, given.experts, given.seed))


if __name__ == "__main__":
    main()

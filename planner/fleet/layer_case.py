"""A given cluster of unequal nodes as numbers: what each passes with every number of layers, and what links pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import read_document, sha256_of
from ..plan.base import Input
from ..plan.layer_placement import SINK, SOURCE

MOST_NODES = 256
MOST_LAYERS = 1_000
MOST_DIGITS = 9
MOST_TOKENS_PER_S = 1e9

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerCase:
    """`throughput[i, k-1]` and `link[a, b]` in tokens/s; row and column n of `link` are the source, n+1 the sink."""

    layers: int
    names: tuple[str, ...]
    types: tuple[str, ...]
    throughput: Floats
    link: Floats
    sources: tuple[Input, ...]


class HelixCase(msgspec.Struct, frozen=True):
    """A case file; `best_known`, `status` and `source` are notes of its author and are left alone."""

    layers: int
    node_types: tuple[str, ...]
    throughput_tokens_per_s: dict[str, dict[str, float]]
    links_tokens_per_s: dict[str, float]


def read_helix(path: str) -> LayerCase:
    """The case in a file: throughput by consecutive layers held, per node type, and link capacities.

    Links are named `0_1`, `source_0` and `1_sink`; a link that is not named is not there. Raises InputError naming the
    field that is wrong.
    """
    document = read_document(path, "Helix case")
    where = f"Helix case {path}"
    try:
        case = msgspec.convert(document, HelixCase)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}") from error
    source = Input(role="measured", source=path, sha256=sha256_of(document), document=document)
    try:
        return layer_case(case, source)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def layer_case(case: HelixCase, source: Input) -> LayerCase:
    """The numbers of a case. Raises InputError naming what is out of range."""
    nodes = len(case.node_types)
    if not 1 <= case.layers <= MOST_LAYERS:
        raise InputError(f"layers must be from 1 to {MOST_LAYERS} but is {case.layers}")
    if not 1 <= nodes <= MOST_NODES:
        raise InputError(f"node_types must have from 1 to {MOST_NODES} nodes but has {nodes}")
    rows = {name: _row(name, table, case.layers) for name, table in case.throughput_tokens_per_s.items()}
    for at, name in enumerate(case.node_types):
        if name not in rows:
            raise InputError(f"node_types[{at}] is {name} but throughput_tokens_per_s has {', '.join(sorted(rows))}")
    return LayerCase(
        layers=case.layers,
        names=tuple(str(at) for at in range(nodes)),
        types=case.node_types,
        throughput=np.array([rows[name] for name in case.node_types]),
        link=_links(case.links_tokens_per_s, nodes),
        sources=(source,),
    )


def _row(name: str, table: Mapping[str, float], layers: int) -> list[float]:
    row = [0.0] * layers
    for size, tokens in table.items():
        if not (size.isascii() and size.isdecimal() and len(size) <= MOST_DIGITS and int(size) >= 1):
            raise InputError(
                f"throughput_tokens_per_s.{name} has layers {size[:20]!r}, which must be a whole number above 0 "
                f"of at most {MOST_DIGITS} digits"
            )
        if not 0 <= tokens <= MOST_TOKENS_PER_S:
            raise InputError(
                f"throughput_tokens_per_s.{name}.{size} must be from 0 to {MOST_TOKENS_PER_S:g} but is {tokens:g}"
            )
        if int(size) <= layers:
            row[int(size) - 1] = tokens
    return row


def _links(links: Mapping[str, float], nodes: int) -> Floats:
    names = {str(at): at for at in range(nodes)}
    link = np.zeros((nodes + 2, nodes + 2))
    for name, tokens in links.items():
        left, _, right = name.partition("_")
        a, b = ({SOURCE: nodes} | names).get(left), ({SINK: nodes + 1} | names).get(right)
        if a is None or b is None or a == b:
            raise InputError(
                f"links_tokens_per_s has {name!r} but links are named A_B, source_B or A_sink, nodes 0 to {nodes - 1}"
            )
        if tokens < 0:
            raise InputError(f"links_tokens_per_s.{name} must be at least 0 but is {tokens:g}")
        link[a, b] = tokens
    if not link[nodes].any() or not link[:, nodes + 1].any():
        raise InputError("links_tokens_per_s must join the source and the sink to at least one node each")
    return link

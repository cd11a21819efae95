"""Which nodes of an unequal cluster hold which layers, and what flows between them."""

from __future__ import annotations

import msgspec

from ..errors import InvalidPlan

SOURCE, SINK = "source", "sink"


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Holder(_Record, frozen=True, kw_only=True):
    """A node and the layers `start` to `end`, `end` not included, that it holds; equal when it holds none.

    `tokens_per_s` is what the node passes while it holds that many, `layer_tokens_per_s` the most layers times tokens
    per second that it does with any number: the pace of its type.
    """

    node: str
    type: str
    start: int
    end: int
    tokens_per_s: float
    layer_tokens_per_s: float


class Stream(_Record, frozen=True, kw_only=True):
    """What flows over one link, and what the link passes at most; the ends are nodes, `source` or `sink`."""

    source: str
    target: str
    tokens_per_s: float
    capacity_tokens_per_s: float


class Simulated(_Record, frozen=True, kw_only=True):
    """What a closed loop of `concurrency` requests sees in a simulation that knows caches, batches and links.

    `in_flight` is how many of them the caches hold on average; `token_s` is the mean time from token to token, `ttft_s`
    from admission to the first one.
    """

    concurrency: int
    tokens_per_s: float
    token_s: float
    ttft_s: float
    in_flight: float


class Chains(_Record, frozen=True, kw_only=True):
    """A placement and its maximum flow.

    `bound_tokens_per_s` is what no placement passes under the same limit of stages, if there is one. `stages` counts
    the nodes that a token visits on its longest way, `token_s` is the time of that way.
    """

    tokens_per_s: float
    bound_tokens_per_s: float
    stages: int
    stage_limit: int | None
    token_s: float
    holders: tuple[Holder, ...]
    streams: tuple[Stream, ...]
    simulated: Simulated | None = None


class LayerPlacement(_Record, frozen=True, kw_only=True):
    """The placement of most flow, and the one of most flow among those whose latency is capped.

    `token_s` of both counts `batch` tokens at the pace of every node, layer by layer, and `hop_s` for every link.
    """

    layers: int
    batch: int
    hop_s: float
    latency_limit_s: float | None = None
    best: Chains
    capped: Chains

    def __post_init__(self) -> None:
        for name, chains in (("best", self.best), ("capped", self.capped)):
            nodes = [holder.node for holder in chains.holders]
            known = {*nodes, SOURCE, SINK}
            if len(known) != len(nodes) + 2:
                raise InvalidPlan(f"placement.{name}.holders must name every node once, none of them source or sink")
            for at, holder in enumerate(chains.holders):
                if not 0 <= holder.start <= holder.end <= self.layers:
                    raise InvalidPlan(f"placement.{name}.holders[{at}] must hold layers within 0 to {self.layers}")
            for at, stream in enumerate(chains.streams):
                if not {stream.source, stream.target} <= known:
                    raise InvalidPlan(f"placement.{name}.streams[{at}] must join nodes, source or sink")

"""A topology and a model as a cluster of unequal nodes: what a node passes follows from the cost model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shardwright.models import ModelGraph
from shardwright.topologies import Topology

from ..costs.serving.coefficients import engine, host_factor, kernels
from ..costs.serving.communication import fabric
from ..costs.serving.formulas import StepCost
from ..costs.serving.memory import replica_memory
from ..costs.serving.shapes import replica_shapes
from ..costs.serving.step import Machine, step_cost
from ..errors import InputError
from ..plan.base import Input
from ..plan.layer_placement import SINK, SOURCE, Chains, Simulated
from ..workload.serving_layout import Layout, quantization
from .chain_simulation import (
    PROMPT_BUDGET,
    ChainLink,
    ChainLoad,
    ChainNode,
    ChainSystem,
    LayerTimes,
    simulate_chains,
)
from .layer_case import MOST_NODES, MOST_TOKENS_PER_S, Floats, LayerCase

STATE_BYTES = 2
TOKEN_HOPS = 400_000
LEAST_S, MOST_S = 10.0, 120.0
POINTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PROMPTS = (1, 64, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class ChainUse:
    """Mean lengths of the requests, number formats, and the engine. Raises InputError when a length is below 1."""

    isl: int
    osl: int
    formats: str = "bf16"
    engine: str = "vllm"

    def __post_init__(self) -> None:
        if self.isl < 1 or self.osl < 1:
            raise InputError(f"isl and osl must be at least 1 but are {self.isl} and {self.osl}")


@dataclass(frozen=True, slots=True)
class NodeType:
    """Nodes of one kind: seconds of a layer, cache bytes left by weights, and what a layer takes of either."""

    name: str
    times: LayerTimes
    room_bytes: float
    layer_bytes: float
    token_bytes: float
    sequences: int

    def cache_tokens(self, layers: int) -> float:
        """Tokens whose keys and values fit beside that many layers; not positive when the layers do not."""
        return (self.room_bytes - layers * self.layer_bytes) / (layers * self.token_bytes)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A model on a topology: its nodes by type, and rates and latencies of the links between them."""

    use: ChainUse
    layers: int
    types: tuple[NodeType, ...]
    of_node: tuple[int, ...]
    names: tuple[str, ...]
    bytes_per_s: Floats
    latency_s: Floats
    state_bytes: float

    def case(self, sources: tuple[Input, ...]) -> LayerCase:
        """What nodes and links pass, in output tokens per second; each of them brings isl/osl prompt tokens."""
        nodes = len(self.names)
        rows = [[_passes(kind, size, self) for size in range(1, self.layers + 1)] for kind in self.types]
        link = np.full((nodes + 2, nodes + 2), MOST_TOKENS_PER_S)
        carried = self.state_bytes * (1 + self.use.isl / self.use.osl)
        link[:nodes, :nodes] = np.minimum(self.bytes_per_s / carried, MOST_TOKENS_PER_S)
        np.fill_diagonal(link, 0.0)
        return LayerCase(
            layers=self.layers,
            names=self.names,
            types=tuple(self.types[at].name for at in self.of_node),
            throughput=np.array([rows[at] for at in self.of_node]),
            link=link,
            sources=sources,
        )

    @property
    def hop_s(self) -> float:
        """The largest latency between two nodes, zero for a single one."""
        return float(self.latency_s.max())

    def simulated(self, chains: Chains) -> Simulated:
        """The placement in the simulation, as many requests in flight as the caches hold."""
        place = {name: at for at, name in enumerate(self.names)}
        nodes = {}
        for holder in chains.holders:
            if size := holder.end - holder.start:
                kind = self.types[self.of_node[place[holder.node]]]
                nodes[holder.node] = ChainNode(size, kind.cache_tokens(size), kind.times)
        links = {}
        for stream in chains.streams:
            rate, delay = MOST_TOKENS_PER_S * self.state_bytes, self.hop_s
            if stream.source != SOURCE and stream.target != SINK:
                ends = place[stream.source], place[stream.target]
                rate, delay = float(self.bytes_per_s[ends]), float(self.latency_s[ends])
            links[stream.source, stream.target] = ChainLink(stream.tokens_per_s, rate, delay)
        system = ChainSystem(nodes, links, self.state_bytes)
        held = sum(node.layers * node.cache_tokens for node in nodes.values()) / self.layers
        concurrency = max(1, math.floor(held / (self.use.isl + self.use.osl)))
        concurrency = min(concurrency, self._sequences(chains, place))
        seconds = min(max(TOKEN_HOPS / (chains.tokens_per_s * chains.stages), LEAST_S), MOST_S)
        found = simulate_chains(system, ChainLoad((self.use.isl,), (self.use.osl,), concurrency, seconds))
        return Simulated(
            concurrency=concurrency,
            tokens_per_s=found.tokens_per_s,
            token_s=found.token_s,
            ttft_s=found.prompt_s,
            in_flight=found.in_flight,
        )

    def _sequences(self, chains: Chains, place: dict[str, int]) -> int:
        kinds = [self.types[self.of_node[place[holder.node]]] for holder in chains.holders if holder.end > holder.start]
        return chains.stages * max(kind.sequences for kind in kinds)


def _passes(kind: NodeType, layers: int, cluster: Cluster) -> float:
    """Output tokens per second of a node with that many layers, in a chain whose other nodes hold as many.

    Its cache holds N requests, and the chain of L layers keeps L/k batches of N·k/L of them in flight: a node never
    sees its whole cache in one batch. Zero when not a single request fits.
    """
    use = cluster.use
    held = kind.cache_tokens(layers) / (use.isl + use.osl)
    if held < 1:
        return 0.0
    batch = min(max(held * layers / cluster.layers, 1.0), float(kind.sequences))
    prompt_s = kind.times.prompt_s(PROMPT_BUDGET) / PROMPT_BUDGET * use.isl / use.osl
    return min(batch / (layers * (kind.times.decode_s(batch) + batch * prompt_s)), MOST_TOKENS_PER_S)


def cluster_of(model: ModelGraph, topology: Topology, use: ChainUse) -> tuple[Cluster, tuple[str, ...]]:
    """The nodes of a topology under a model, tensor-parallel inside every node, and what was assumed.

    Raises InputError for too many nodes.
    """
    if topology.n_nodes > MOST_NODES:
        raise InputError(
            f"topology {topology.name} has {topology.n_nodes} nodes but a placement takes {MOST_NODES} at most"
        )
    kinds: dict[tuple[int, int, float], int] = {}
    types: list[NodeType] = []
    notes: list[str] = []
    of_node = []
    for node in range(topology.n_nodes):
        devices = np.flatnonzero(topology.device_node == node)
        accelerator = int(topology.device_accelerator[devices[0]])
        key = accelerator, len(devices), float(topology.device_speed[devices].min())
        if key not in kinds:
            kinds[key] = len(types)
            made, assumed = _node_type(model, topology, use, key)
            types.append(made)
            notes += [note for note in assumed if note not in notes]
        of_node.append(kinds[key])
    first = np.array([np.flatnonzero(topology.device_node == node)[0] for node in range(topology.n_nodes)])
    cluster = Cluster(
        use=use,
        layers=model.num_layers,
        types=tuple(types),
        of_node=tuple(of_node),
        names=topology.node_names,
        bytes_per_s=np.asarray(topology.node_bandwidth_bytes_per_s),
        latency_s=topology.latency_s(first[:, None], first[None, :]),
        state_bytes=float(STATE_BYTES * model.hidden_size),
    )
    notes += [
        f"requests of {use.isl} prompt and {use.osl} output tokens, weights in {use.formats}",
        "all layers cost alike, embedding and head counted into them",
        "a node is tensor parallel inside, and its cache divides over the batches that are in flight",
    ]
    return cluster, tuple(notes)


def _node_type(
    model: ModelGraph, topology: Topology, use: ChainUse, key: tuple[int, int, float]
) -> tuple[NodeType, tuple[str, ...]]:
    accelerator, devices, speed = key
    on, numbers = fabric(topology, accelerator), quantization(use.formats)
    known, noted = engine(use.engine)
    figures, more = kernels(on.accelerator.architecture, on.accelerator.name)
    layout = _widest(model, devices, use)
    shapes = replica_shapes(model, layout, numbers)
    memory = replica_memory(model, shapes, on, layout, (numbers, known, use.isl + use.osl / 2))
    cost = step_cost(model, Machine(on, figures, known, host_factor(on.accelerator.name)), layout, numbers)
    made = NodeType(
        name=f"{devices}×{on.accelerator.name}" + ("" if speed >= 1 else f" at {speed:.0%}"),
        times=_times(cost, shapes.layers, use.isl + use.osl / 2, speed),
        room_bytes=memory.usable_bytes - memory.workspace_bytes,
        layer_bytes=memory.weight_bytes / shapes.layers,
        token_bytes=(memory.token_bytes + memory.sequence_bytes / (use.isl + use.osl / 2)) / shapes.layers,
        sequences=known.max_sequences,
    )
    if layout.tp < devices:
        more = (
            *more,
            f"tp {layout.tp} is the widest on the {devices} {on.accelerator.name} of a node: the rest stay idle",
        )
    return made, (*noted, *more)


def _widest(model: ModelGraph, devices: int, use: ChainUse) -> Layout:
    """The most tensor-parallel ranks, a power of two, that the model can be divided over, experts among them too."""
    routed = any(each.experts for each in replica_shapes(model, Layout(), quantization(use.formats)).experts)
    for exponent in range(int(math.log2(devices)), 0, -1):
        ranks = 2**exponent
        for layout in (Layout(tp=ranks, ep=ranks), Layout(tp=ranks, moe_tp=ranks)) if routed else (Layout(tp=ranks),):
            try:
                replica_shapes(model, layout, quantization(use.formats))
            except InputError:
                continue
            return layout
    return Layout()


def _times(cost: StepCost, layers: float, context: float, speed: float) -> LayerTimes:
    """Seconds of one layer from the steps of the whole model, at a mean context."""
    decode = [(float(n), float(cost.decode_seconds(n, context)) / layers / speed) for n in POINTS]
    prompt = [(float(n), float(cost.seconds(0, 0.0, n, 0.0)) / layers / speed) for n in PROMPTS]
    return LayerTimes(tuple(prompt), tuple(decode))

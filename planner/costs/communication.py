"""Time of every transfer one block makes: what is exposed after overlap, by axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardwright.models import Attention, Block, Elementwise, Embedding, Experts, Linear, Norm

from ..strategy import CONTEXT_COMMS
from .coefficients import Framework
from .keys import BlockKeys, Floats
from .network import Groups, Network, groups_of


@dataclass(frozen=True, slots=True)
class BlockTransfers:
    """Exposed seconds per micro-batch of one block, by axis, forward and backward."""

    tp_forward: Floats
    tp_backward: Floats
    cp_forward: Floats
    cp_backward: Floats
    ep_forward: Floats
    ep_backward: Floats

    @property
    def forward(self) -> Floats:
        """All axes, forward."""
        return self.tp_forward + self.cp_forward + self.ep_forward

    @property
    def backward(self) -> Floats:
        """All axes, backward."""
        return self.tp_backward + self.cp_backward + self.ep_backward


def tensor_features(block: Block) -> tuple[list[int], list[int]]:
    """Features gathered before column-split and reduced after row-split products of a block, one entry per transfer.

    Consecutive column-split products of one input share its gather; an MLA up-projection gathers its own small
    latent. The vocabulary table reduces its output, the vocabulary head gathers its input. A norm across heads gathers
    what a column-split product left divided, and divides it again.
    """
    gathered, reduced = [], []
    fresh = True
    for op in block.operators:
        if isinstance(op, Norm) and op.split == "gathered":
            gathered += [] if op.source_tokens else [op.features]
        elif isinstance(op, Norm) and op.split != "heads":
            fresh = True
        elif isinstance(op, Linear) and op.split in ("column", "vocab"):
            if fresh:
                gathered.append(op.in_features)
            fresh = False
        elif isinstance(op, Linear) and op.split == "row":
            reduced.append(op.out_features)
        elif isinstance(op, Linear) and not op.shared_input:
            fresh = True
        elif isinstance(op, Embedding) and op.split == "vocab":
            reduced.append(op.features)
        elif isinstance(op, Elementwise) and op.split == "sequence":
            fresh = True
    return gathered, reduced


@dataclass(frozen=True, slots=True)
class Cover:
    """Compute of one block that transfers may hide under, forward and backward: attention, the shared expert, and
    everything; `weight_s` is what computes weight gradients."""

    weight_s: Floats
    attention_s: tuple[Floats, Floats]
    shared_s: tuple[Floats, Floats]
    block_s: tuple[Floats, Floats]


def block_transfers(
    block: Block, keys: BlockKeys, network: Network, framework: Framework, cover: Cover, dispatch_s: Floats
) -> BlockTransfers:
    """Exposed transfers of one block; `dispatch_s` are those of its experts, not yet hidden."""
    tp_forward, tp_backward = _tensor(block, keys, network, framework, cover.weight_s)
    disturbed = _disturbed(keys, network, framework)
    tp_forward, tp_backward = tp_forward + disturbed * cover.block_s[0], tp_backward + disturbed * cover.block_s[1]
    cp_forward, cp_backward = _context(block, keys, network, framework, cover.attention_s)
    ep_forward, ep_backward = (_dispatch_shown(dispatch_s, keys, framework, cover, way) for way in (0, 1))
    return BlockTransfers(tp_forward, tp_backward, cp_forward, cp_backward, ep_forward, ep_backward)


def _dispatch_shown(dispatch_s: Floats, keys: BlockKeys, framework: Framework, cover: Cover, way: int) -> Floats:
    """What of expert dispatch the shared expert, or another micro-batch's pass through the block, does not hide."""
    shown = np.choose(
        keys.ep_overlap,
        [
            dispatch_s,
            np.maximum(dispatch_s - cover.shared_s[way], 0.0),
            np.maximum(dispatch_s - framework.pair_overlap * cover.block_s[way], 0.0),
        ],
    )
    result: Floats = shown + framework.hidden_cost * (dispatch_s - shown)
    return result


def _disturbed(keys: BlockKeys, network: Network, framework: Framework) -> Floats:
    """By what share of a block's compute the other tensor-parallel groups of its domain delay one, where jobs span
    several domains: transfers of many groups at once interfere in ways that each alone does not show (Bang et al. 2024,
    vTrain, on its multi-node errors)."""
    if network.domains == 1:
        return np.zeros(len(keys))
    others = np.maximum(network.domain // keys.tp - 1, 0)
    result: Floats = np.where(keys.tp > 1, framework.tp_interference * others, 0.0)
    return result


def _tensor(
    block: Block, keys: BlockKeys, network: Network, framework: Framework, weight_s: Floats
) -> tuple[Floats, Floats]:
    """Exposed tensor-parallel transfers. What backward sends of a product's input gradient is on its way while the
    weight's gradient is computed (Megatron-LM, tensor_parallel/layers.py)."""
    every = _tensor_parts(block, keys if keys.dense is None else keys.dense, network, framework)
    forward, output, inputs, shown = (part if keys.dense_of is None else part[keys.dense_of] for part in every)
    hidden = np.minimum(inputs, weight_s) * framework.tp_backward_overlap
    return forward, output + np.minimum(shown, inputs - hidden)


def _tensor_parts(
    block: Block, keys: BlockKeys, network: Network, framework: Framework
) -> tuple[Floats, Floats, Floats, Floats]:
    """All-reduce without sp, all-gather and reduce-scatter with it (Korthikanti et al. 2022, section 4.2.2): forward,
    backward's output gradients, its input gradients, and what of those the products that need them do not hide.

    Only transfers divided along a product's tokens, as under sp, hide under it.
    """
    groups = groups_of(np.ones(len(keys), np.int64), keys.tp, network.domain)
    gathered, reduced = tensor_features(block)
    fused = np.where(keys.tp_overlap == 1, framework.fused_tp_overlap, 0.0)
    exposed = 1 - np.maximum(np.where(keys.sp == 1, framework.tp_overlap, 0.0), fused)
    stop = framework.tp_stop_s * np.log2(keys.tp)

    def total(op: str, features: list[int]) -> Floats:
        result: Floats = np.zeros(len(keys))
        for each in sorted(set(features)):
            size = keys.tokens * each * 2.0
            seconds = network.crowded_seconds(op, size, groups, framework.crossing_slowdown)
            result = result + features.count(each) * seconds
        return result

    with_sp = keys.sp == 1
    scattered = total("all_gather", gathered) + total("reduce_scatter", reduced)
    forward = np.where(with_sp, scattered, total("all_reduce", reduced))
    output = np.where(with_sp, total("all_gather", reduced), 0.0) * exposed
    inputs = np.where(with_sp, total("reduce_scatter", gathered), total("all_reduce", gathered))
    return forward * exposed + stop * len(reduced), output + stop * len(gathered), inputs, inputs * exposed


def _context(
    block: Block,
    keys: BlockKeys,
    network: Network,
    framework: Framework,
    attention_s: tuple[Floats, Floats],
) -> tuple[Floats, Floats]:
    """Exchange of keys and values over the cp group.

    p2p: a ring of cp - 1 steps under attention, twice the volume backward (Liu et al. 2023, "Ring Attention").
    all_gather: K and V gathered before attention, their gradients reduce-scattered after (Llama 3 report, section
    3.3.2). a2a: heads for tokens around attention (Jacobs et al. 2023, "DeepSpeed Ulysses"). a2a+p2p: heads swapped
    inside groups, rings between them (Fang et al. 2024, "USP").
    """
    zero: Floats = np.zeros(len(keys))
    attention = [op for op in block.operators if isinstance(op, Attention)]
    if not attention or bool(np.all(keys.cp == 1)):
        return zero, zero
    groups = groups_of(keys.tp, keys.cp, network.domain)
    slowdown = framework.crossing_slowdown
    forward, backward = zero, zero
    for op in attention:
        kv = keys.by_tp(lambda tp, sp, op=op: -(-op.kv_heads // tp) * (op.qk_head_dim + op.v_head_dim))
        query = keys.by_tp(lambda tp, sp, op=op: -(-op.heads // tp) * (op.qk_head_dim + op.v_head_dim))
        held = keys.of_source(op.source_tokens).tokens if op.source_tokens else keys.tokens
        kv_bytes = held * kv * 2.0
        ring = (keys.cp - 1) * network.ring_step_seconds(kv_bytes, groups)
        swapped_bytes = kv_bytes + keys.tokens * query * 2.0
        gather = network.crowded_seconds("all_gather", kv_bytes * keys.cp, groups, slowdown)
        scatter = network.crowded_seconds("reduce_scatter", kv_bytes * keys.cp, groups, slowdown)
        swap = network.crowded_seconds("all_to_all", swapped_bytes, groups, slowdown)
        hidden = [framework.cp_overlap * seconds for seconds in attention_s]
        choices = {
            "p2p": (np.maximum(ring - hidden[0], 0), np.maximum(2 * ring - hidden[1], 0)),
            "all_gather": (gather, gather + scatter),
            "a2a": (swap, swap),
            "a2a+p2p": _hierarchical(op, keys, network, (kv_bytes, swapped_bytes), hidden, slowdown),
        }
        order = [choices[name] for name in CONTEXT_COMMS]
        forward = forward + np.choose(keys.cp_comm, [each[0] for each in order])
        backward = backward + np.choose(keys.cp_comm, [each[1] for each in order])
    return forward, backward


def _hierarchical(
    op: Attention,
    keys: BlockKeys,
    network: Network,
    sizes: tuple[Floats, Floats],
    hidden: list[Floats],
    slowdown: float,
) -> tuple[Floats, Floats]:
    """Heads swapped inside groups as large as the kv heads of a tp rank allow, and a ring over the groups."""
    kv_bytes, swapped_bytes = sizes
    inner = np.gcd(keys.cp, np.maximum(op.kv_heads // keys.tp, 1))
    groups = groups_of(keys.tp, inner, network.domain)
    swap = network.crowded_seconds("all_to_all", swapped_bytes, groups, slowdown)
    steps = keys.cp // inner - 1
    ring = steps * network.ring_step_seconds(kv_bytes, groups_of(keys.tp * inner, keys.cp // inner, network.domain))
    return swap + np.maximum(ring - hidden[0], 0), swap + np.maximum(2 * ring - hidden[1], 0)


def dispatch_seconds(block: Block, keys: BlockKeys, network: Network, framework: Framework) -> Floats:
    """Dispatch and combine: two all-to-alls over ep each way, and a gather and scatter over etp.

    Where the experts of a placement are on as many ranks, its fullest rank takes and returns the most.
    """
    total: Floats = np.zeros(len(keys))
    load, slowdown = framework.placed, framework.crossing_slowdown
    fuller = 1.0 if load is None else np.where(keys.ep == load.ranks, load.imbalance, 1.0)
    for op in block.operators:
        if not isinstance(op, Experts):
            continue
        hidden = next(each.in_features for each in op.body if isinstance(each, Linear))
        sent = keys.own_tokens * op.topk * hidden * 2.0
        ep_groups = groups_of(keys.etp, keys.ep, network.domain)
        if framework.dispatch_by_node:
            total = total + 2 * _by_domain(sent * fuller, op.topk, ep_groups, network, framework)
        else:
            total = total + 2 * network.crowded_seconds("all_to_all", sent * fuller, ep_groups, slowdown)
        etp_groups = groups_of(np.ones(len(keys), np.int64), keys.etp, network.domain)
        whole = sent * keys.etp
        total = total + network.crowded_seconds("all_gather", whole, etp_groups, slowdown)
        total = total + network.crowded_seconds("reduce_scatter", whole, etp_groups, slowdown)
    return total * (1 - framework.ep_overlap)


def _by_domain(sent: Floats, topk: int, groups: Groups, network: Network, framework: Framework) -> Floats:
    """An all-to-all that crosses to each scale-up domain once per token, then spreads inside it while the next tokens
    cross (DeepSeek-V3 report, section 3.2.2).

    Of d domains, topk experts chosen evenly lie in d (1 - (1 - 1/d)^topk) different ones; a placement on as many ranks
    and domains says in how many its tokens' experts do, and on how many ranks, each of which needs a token once.
    """
    load = framework.placed
    domains = groups.domains.astype(np.float64)
    crossed = domains * (1 - (1 - 1 / domains) ** topk) / topk
    spread: Floats = np.ones_like(domains)
    if load is not None:
        placed = groups.domains * groups.ranks_per_domain == load.ranks
        if load.reach_nodes is not None:
            crossed = np.where(placed & (groups.domains == load.nodes), load.reach_nodes / topk, crossed)
        if load.reach is not None:
            spread = np.where(placed, load.reach / topk, 1.0)
    one = np.ones_like(groups.domains)
    inner = groups.ranks_per_domain
    across = Groups(groups.stride * inner, one, groups.domains, groups.sharing * inner)
    inside = Groups(groups.stride, inner, one, one)
    return np.maximum(
        network.crowded_seconds("all_to_all", sent * crossed, across, framework.crossing_slowdown),
        network.seconds("all_to_all", sent * spread, inside),
    )

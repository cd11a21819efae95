"""Attention in Megatron-LM's arguments: grouped, latent, windowed, with sinks, sparse (DSA), and the delta rule."""

from __future__ import annotations

from collections.abc import Sequence

from shardwright.models import Attention, ModelGraph
from shardwright.models.launch import LaunchFacts

from ..strategy import Strategy
from .megatron_layer import Arguments, Layer, cannot, pattern


def attention_arguments(graph: ModelGraph, facts: LaunchFacts) -> Arguments:
    """Heads, widths and variants of the attention of a model whose attending layers are alike.

    Raises InputError naming what differs between layers or has no argument.
    """
    chain = [Layer(block) for block in graph.layer_blocks()]
    attending = list(dict.fromkeys(layer for layer in chain if layer.attention))
    if not attending:
        raise cannot("layers none of which attends", graph.name)
    cores = [layer.attention for layer in attending if layer.attention]
    if len({(op.heads, op.kv_heads, op.qk_head_dim, op.v_head_dim, op.extra_parameters) for op in cores}) != 1:
        raise cannot("layers with different attention shapes", graph.name)
    first, core = attending[0], cores[0]
    found = _latent(first, core) + _selection(graph, chain) if core.latent_features else _grouped(first, core)
    found += _windows(graph, chain)
    if core.extra_parameters:
        if core.extra_parameters != core.heads:
            raise cannot(f"{core.extra_parameters} further weights in the attention", graph.name)
        found += [("--softmax-type", "learnable")]
    if any(layer.get("linear_attention") for layer in chain):
        found += _delta_rule(graph, chain, facts)
    return found


def refuse_split(graph: ModelGraph, facts: LaunchFacts, strategy: Strategy, stages: Sequence[tuple[int, str]]) -> None:
    """Raises InputError for degrees that Megatron-LM's variants of attention do not take (TransformerConfig, DSA), and
    for compressed attention between hyper-connections, of which it has no layers."""
    if graph.streams > 1:
        raise cannot("hyper-connections", graph.name)
    rule, ranks = facts.delta_rule, strategy.tp * strategy.cp
    layers = [Layer(block) for block in graph.layer_blocks()]
    if rule and any(layer.get("linear_attention") for layer in layers) and rule.key_heads % ranks:
        raise cannot(f"{rule.key_heads} delta-rule heads over tp × cp = {ranks}", graph.name)
    cores = [layer.attention for layer in layers if layer.attention]
    if not any(core.selected for core in cores):
        return
    if strategy.cp > 1 and strategy.cp_comm != "all_gather":
        raise cannot(f"cp_comm {strategy.cp_comm} with the sparse attention (all_gather only)", graph.name)
    start = 0
    for count, _ in stages:
        if count and layers[start].get("index_scores") is None:
            raise cannot(f"a stage that begins with layer {start}, whose indexer is an earlier layer's,", graph.name)
        start += count


def _grouped(layer: Layer, core: Attention) -> Arguments:
    found: Arguments = [("--num-attention-heads", str(core.heads)), ("--kv-channels", str(core.qk_head_dim))]
    if core.kv_heads != core.heads:
        found += [("--group-query-attention",), ("--num-query-groups", str(core.kv_heads))]
    qkv, output = layer.linear("qkv"), layer.linear("attention_output")
    if qkv is not None and qkv.bias and not (output is not None and output.bias):
        found += [("--add-qkv-bias",)]
    if layer.get("q_norm") is not None:
        found += [("--qk-layernorm",)]
    if layer.get("attention_gate") is not None:
        found += [("--attention-output-gate",)]
    return found


def _latent(layer: Layer, core: Attention) -> Arguments:
    found: Arguments = [("--num-attention-heads", str(core.heads)), ("--multi-latent-attention",)]
    q_down = layer.linear("q_down")
    if q_down is not None:
        found += [("--q-lora-rank", str(q_down.out_features))]
    found += [
        ("--kv-lora-rank", str(core.latent_features)),
        ("--qk-head-dim", str(core.qk_head_dim - core.rope_features)),
        ("--qk-pos-emb-head-dim", str(core.rope_features)),
        ("--v-head-dim", str(core.v_head_dim)),
    ]
    if layer.get("q_norm") is not None or layer.get("kv_norm") is not None:
        found += [("--qk-layernorm",)]
    return found


def _windows(graph: ModelGraph, chain: list[Layer]) -> Arguments:
    """A window of W tokens reaches W - 1 back; one flag a layer says which have it (`is_layer_window_attention`)."""
    cores = [layer.attention for layer in chain]
    if any(core.chunked for core in cores if core):
        raise cannot("chunked attention", graph.name)
    sizes = {core.window for core in cores if core and core.window is not None}
    if not sizes:
        return []
    if len(sizes) > 1:
        raise cannot(f"windows of {', '.join(map(str, sorted(sizes)))} tokens", graph.name)
    found: Arguments = [("--window-size", f"{sizes.pop() - 1},0")]
    flags = [int(core is not None and core.window is not None) for core in cores]
    return found if all(flags) else [*found, ("--window-attn-skip-freq", pattern(flags))]


def _selection(graph: ModelGraph, chain: list[Layer]) -> Arguments:
    """DeepSeek sparse attention; `is_dsa_skip_topk_layer` says which layers have indexers, the first ones and then one
    of `topk_freq`."""
    selected = {core.selected for layer in chain if (core := layer.attention)}
    if selected == {None}:
        return []
    indexers = {op for layer in chain if isinstance(op := layer.get("index_scores"), Attention)}
    if len(selected) > 1 or len(indexers) != 1:
        raise cannot("layers that differ in the tokens they attend to", graph.name)
    index = indexers.pop()
    found: Arguments = [
        ("--experimental-attention-variant", "dsa"),
        ("--dsa-indexer-n-heads", str(index.heads)),
        ("--dsa-indexer-head-dim", str(index.qk_head_dim)),
        ("--dsa-indexer-topk", str(selected.pop())),
        ("--no-rope-fusion",),
    ]
    own = [layer.get("index_scores") is not None for layer in chain]
    if all(own):
        return found
    first = own.index(False)
    every = own.index(True, first) - first + 1 if True in own[first:] else len(own)
    if not first or own != [max(number - first, 0) % every == 0 for number in range(1, len(own) + 1)]:
        raise cannot("indexers in layers without a period", graph.name)
    return [*found, ("--dsa-indexer-topk-freq", str(every)), ("--dsa-indexer-skip-topk-offset", str(first))]


def _delta_rule(graph: ModelGraph, chain: list[Layer], facts: LaunchFacts) -> Arguments:
    """Gated DeltaNet in the layers that do not attend, with norms whose weights are kept less one, as its models have.

    Raises InputError for another linear attention, or sizes that are not the configuration's.
    """
    rule = facts.delta_rule
    linear = [layer for layer in chain if layer.get("linear_attention")]
    if rule is None or any(layer.get("decay") is None for layer in linear):
        raise cannot("linear attention other than the gated delta rule", graph.name)
    width = 2 * rule.key_heads * rule.key_dim + 2 * rule.value_heads * rule.value_dim
    if any((into := layer.linear("qkvz")) is None or into.out_features != width for layer in linear):
        raise cannot("delta-rule layers of different sizes", graph.name)
    return [
        ("--experimental-attention-variant", "gated_delta_net"),
        ("--linear-attention-freq", pattern([int(layer.attention is None) for layer in chain])),
        ("--linear-num-key-heads", str(rule.key_heads)),
        ("--linear-num-value-heads", str(rule.value_heads)),
        ("--linear-key-head-dim", str(rule.key_dim)),
        ("--linear-value-head-dim", str(rule.value_dim)),
        ("--linear-conv-kernel-dim", str(rule.kernel)),
        ("--apply-layernorm-1p",),
    ]

"""A model graph in Megatron-LM's own arguments; what Megatron's GPT cannot express is refused."""

from __future__ import annotations

from collections.abc import Sequence

from shardwright.models import Experts, Linear, ModelGraph, Norm, Operator
from shardwright.models.launch import LaunchFacts

from ..errors import InputError
from .megatron_attention import attention_arguments
from .megatron_hybrid import hybrid_arguments, is_hybrid
from .megatron_layer import Arguments, Layer, cannot, pattern
from .megatron_positions import position_arguments

_GATED_SILU = (None, "silu", "swish")
_GELU = (None, "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_BIASED = ("attention_output", "mlp_down", "mlp_up", "mlp_gate_up", "expert_down", "mamba_in", "mamba_out")


def model_arguments(
    graph: ModelGraph, facts: LaunchFacts, sequence_length: int, stages: Sequence[tuple[int, str]]
) -> Arguments:
    """Arguments that build this model; `stages` are the layers of every virtual stage, which a hybrid's pattern holds.

    Raises InputError naming the part that Megatron-LM cannot express.
    """
    layers = [Layer(block) for block in dict.fromkeys(graph.layer_blocks())]
    _refuse_inexpressible(graph, layers)
    hybrid = is_hybrid(graph)
    return [
        *(hybrid_arguments(graph, facts, stages) if hybrid else [("--num-layers", str(graph.num_layers))]),
        ("--hidden-size", str(graph.hidden_size)),
        ("--seq-length", str(sequence_length)),
        ("--max-position-embeddings", str(max(sequence_length, graph.max_positions or 0))),
        *attention_arguments(graph, facts),
        *_feed_forward(graph, layers, facts),
        *_norms(layers[0], facts),
        ("--hidden-dropout", repr(facts.hidden_dropout)),
        ("--attention-dropout", repr(facts.attention_dropout)),
        *position_arguments(graph, facts),
        *_mixture(graph, layers, facts, hybrid),
        *([] if hybrid else _mtp(graph)),
        *(() if graph.tied_embeddings else (("--untie-embeddings-and-output-weights",),)),
        ("--tokenizer-type", "NullTokenizer"),
        ("--vocab-size", str(graph.vocab_size)),
    ]


def has_biases(graph: ModelGraph) -> bool:
    """Whether the products of layers or experts have biases, which Megatron adds to all of them."""
    operators = [op for block in graph.layer_blocks() for op in block.operators]
    bodies = [each for op in operators if isinstance(op, Experts) for each in op.body]
    return any(isinstance(op, Linear) and op.bias and op.name in _BIASED for op in (*operators, *bodies))


def _refuse_inexpressible(graph: ModelGraph, layers: list[Layer]) -> None:
    reason = ""
    if any(run.stack == "encoder" for run in graph.runs):
        reason = "an encoder stack" if graph.vocab_size else "a video model (export to megatron-bridge)"
    if any(layer.block.parallel for layer in layers):
        reason = reason or "parallel attention and feed-forward"
    if any(layer.get("attention_post_norm") or layer.get("mlp_post_norm") for layer in layers):
        reason = reason or "norms after the branches"
    if any(isinstance(op, Norm) for run in graph.runs if run.block.role == "embedding" for op in run.block.operators):
        reason = reason or "a norm of the embedding"
    if reason:
        raise cannot(reason, graph.name)


def _feed_forward(graph: ModelGraph, layers: list[Layer], facts: LaunchFacts) -> Arguments:
    dense = next((layer for layer in layers if layer.linear("mlp_down")), None)
    down = dense.linear("mlp_down") if dense else None
    body = next((layer.experts.body for layer in layers if layer.experts), ())
    inner = down or next((op for op in body if isinstance(op, Linear) and op.name == "expert_down"), None)
    if inner is None:
        raise cannot("layers without a feed-forward network", graph.name)
    operators = [op for layer in layers for op in (*layer.block.operators, *body)]
    biased = {op.bias for op in operators if isinstance(op, Linear) and op.name in _BIASED}
    if is_hybrid(graph) and len(biased) > 1:
        raise cannot("biases in some of its layers only", graph.name)
    found: Arguments = [("--ffn-hidden-size", str(inner.in_features)), *_activation(operators, facts)]
    return found if True in biased else [*found, ("--disable-bias-linear",)]


def _activation(operators: Sequence[Operator], facts: LaunchFacts) -> Arguments:
    """The activation; a clamped gate is GPT-OSS's, whose linear half is moved by one (bias_geglu of megatron-core)."""
    if any(op.name.endswith("gate_up") for op in operators):
        if facts.activation not in _GATED_SILU:
            raise InputError(f"export: megatron cannot express a feed-forward gated by {facts.activation}")
        if facts.gate_clamp is None:
            return [("--swiglu",)]
        return [
            ("--quick-geglu",),
            ("--glu-linear-offset", "1.0"),
            ("--activation-func-clamp-value", repr(facts.gate_clamp)),
        ]
    if facts.activation == "relu2":
        return [("--squared-relu",)]
    if facts.activation not in _GELU:
        raise InputError(f"export: megatron cannot express the activation {facts.activation}")
    return []


def _norms(layer: Layer, facts: LaunchFacts) -> Arguments:
    norm = next((op for op in layer.block.operators if isinstance(op, Norm)), None)
    if norm is None:
        raise InputError(f"export: megatron cannot express a {layer.block.name} layer without a norm")
    found: Arguments = [("--normalization", "LayerNorm" if norm.bias else "RMSNorm")]
    if facts.norm_epsilon is not None:
        found += [("--norm-epsilon", repr(facts.norm_epsilon))]
    return found


def _mixture(graph: ModelGraph, layers: list[Layer], facts: LaunchFacts, hybrid: bool) -> Arguments:
    mixtures = [layer for layer in layers if layer.experts]
    if not mixtures:
        return []
    if len({layer.experts for layer in mixtures}) != 1:
        raise cannot("the different expert layers", graph.name)
    layer, experts = mixtures[0], mixtures[0].experts
    assert experts is not None
    down = next(op for op in experts.body if isinstance(op, Linear) and op.name == "expert_down")
    latent = layer.linear("latent_down")
    sparse = [int(any(isinstance(op, Experts) for op in block.operators)) for block in graph.layer_blocks()]
    found: Arguments = [
        ("--num-experts", str(experts.experts)),
        ("--moe-router-topk", str(experts.topk)),
        ("--moe-ffn-hidden-size", str(down.in_features)),
        ("--moe-grouped-gemm",),
        ("--moe-token-dispatcher-type", "alltoall"),
    ]
    shared = layer.linear("shared_down")
    if shared is not None:
        found += [("--moe-shared-expert-intermediate-size", str(shared.in_features))]
    if layer.get("shared_gate") is not None:
        found += [("--moe-shared-expert-gate",)]
    if latent is not None:
        found += [("--moe-latent-size", str(latent.out_features))]
    if not all(sparse) and not hybrid:
        found += [("--moe-layer-freq", pattern(sparse))]
    return found + _router(facts)


def _router(facts: LaunchFacts) -> Arguments:
    found: Arguments = []
    if facts.router_scores in ("softmax", "sigmoid"):
        found += [("--moe-router-score-function", facts.router_scores)]
    if facts.router_groups and facts.router_groups > 1 and facts.router_groups_per_token:
        found += [
            ("--moe-router-num-groups", str(facts.router_groups)),
            ("--moe-router-group-topk", str(facts.router_groups_per_token)),
        ]
    if facts.router_scale is not None and facts.router_scale != 1:
        found += [("--moe-router-topk-scaling-factor", repr(facts.router_scale))]
    if facts.router_bias_correction and facts.router_scores == "sigmoid":
        found += [("--moe-router-enable-expert-bias",)]
    return found


def _mtp(graph: ModelGraph) -> Arguments:
    modules = sum(run.repeat for run in graph.runs if run.block.role == "mtp")
    return [("--mtp-num-layers", str(modules))] if modules else []

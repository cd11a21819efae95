"""A model graph in Megatron-LM's own arguments; what Megatron's GPT cannot express is refused."""

from __future__ import annotations

from dataclasses import dataclass

from shardwright.models import (
    Attention,
    Block,
    Elementwise,
    Embedding,
    Experts,
    Linear,
    ModelGraph,
    Norm,
    Operator,
    Scan,
)
from shardwright.models.launch import LaunchFacts

from ..errors import InputError

Arguments = list[tuple[str, ...]]
_GATED_SILU = (None, "silu", "swish")
_GELU = (None, "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class _Layer:
    """The operators of one layer by name."""

    block: Block

    def __getitem__(self, name: str) -> Operator:
        for operator in self.block.operators:
            if operator.name == name:
                return operator
        raise InputError(f"export: megatron cannot express a {self.block.name} layer without {name}")

    def get(self, name: str) -> Operator | None:
        """The operator of that name, if the layer has one."""
        return next((op for op in self.block.operators if op.name == name), None)

    def linear(self, *names: str) -> Linear | None:
        """The first linear operator of those names."""
        found = (self.get(name) for name in names)
        return next((op for op in found if isinstance(op, Linear)), None)

    @property
    def experts(self) -> Experts | None:
        """The routed experts, if this layer has them."""
        return next((op for op in self.block.operators if isinstance(op, Experts)), None)


def model_arguments(graph: ModelGraph, facts: LaunchFacts, sequence_length: int) -> Arguments:
    """Arguments of `pretrain_gpt.py` that build this model.

    Raises InputError naming the part that Megatron's GPT cannot express.
    """
    layers = [_Layer(block) for block in dict.fromkeys(graph.layer_blocks())]
    _refuse_inexpressible(graph, layers)
    first = layers[0]
    return [
        ("--num-layers", str(graph.num_layers)),
        ("--hidden-size", str(graph.hidden_size)),
        ("--seq-length", str(sequence_length)),
        ("--max-position-embeddings", str(max(sequence_length, graph.max_positions or 0))),
        *_attention(first),
        *_feed_forward(layers, facts),
        *_norms(first, facts),
        ("--hidden-dropout", repr(facts.hidden_dropout)),
        ("--attention-dropout", repr(facts.attention_dropout)),
        *_positions(graph, first, facts),
        *_mixture(graph, layers, facts),
        *_mtp(graph),
        *(() if graph.tied_embeddings else (("--untie-embeddings-and-output-weights",),)),
        ("--tokenizer-type", "NullTokenizer"),
        ("--vocab-size", str(graph.vocab_size)),
    ]


def _refuse_inexpressible(graph: ModelGraph, layers: list[_Layer]) -> None:
    reason = ""
    if any(run.stack == "encoder" for run in graph.runs):
        reason = "an encoder stack"
    attentions = [op for layer in layers for op in layer.block.operators if isinstance(op, Attention)]
    if any(isinstance(op, Scan) for layer in layers for op in layer.block.operators):
        reason = reason or "state-space layers (pretrain_gpt.py builds attention layers only)"
    if any(op.window is not None or op.chunked or op.selected for op in attentions):
        reason = reason or "windowed, chunked or sparse attention"
    if any(op.extra_parameters for op in attentions):
        reason = reason or "attention sinks"
    if any(layer.block.parallel for layer in layers):
        reason = reason or "parallel attention and feed-forward"
    if any(layer.get("attention_post_norm") or layer.get("mlp_post_norm") for layer in layers):
        reason = reason or "norms after the branches"
    shapes = {(op.heads, op.kv_heads, op.qk_head_dim, op.v_head_dim) for op in attentions}
    if len(shapes) != 1:
        reason = reason or "layers with different attention shapes"
    if any(isinstance(op, Norm) for run in graph.runs if run.block.role == "embedding" for op in run.block.operators):
        reason = reason or "a norm of the embedding"
    if reason:
        raise InputError(f"export: megatron cannot express {reason} of {graph.name}")


def _attention(layer: _Layer) -> Arguments:
    core = layer["core_attention"]
    assert isinstance(core, Attention)
    found: Arguments = [("--num-attention-heads", str(core.heads))]
    if core.latent_features:
        q_down, q_norm = layer.linear("q_down"), layer.get("q_norm")
        found += [("--multi-latent-attention",)]
        if q_down is not None:
            found += [("--q-lora-rank", str(q_down.out_features))]
        found += [
            ("--kv-lora-rank", str(core.latent_features)),
            ("--qk-head-dim", str(core.qk_head_dim - core.rope_features)),
            ("--qk-pos-emb-head-dim", str(core.rope_features)),
            ("--v-head-dim", str(core.v_head_dim)),
        ]
        if q_norm is not None or layer.get("kv_norm") is not None:
            found += [("--qk-layernorm",)]
        return found
    found += [("--kv-channels", str(core.qk_head_dim))]
    if core.kv_heads != core.heads:
        found += [("--group-query-attention",), ("--num-query-groups", str(core.kv_heads))]
    qkv = layer.linear("qkv")
    output = layer.linear("attention_output")
    if qkv is not None and qkv.bias and not (output is not None and output.bias):
        found += [("--add-qkv-bias",)]
    if layer.get("q_norm") is not None:
        found += [("--qk-layernorm",)]
    return found


def _feed_forward(layers: list[_Layer], facts: LaunchFacts) -> Arguments:
    dense = next((layer for layer in layers if layer.linear("mlp_down")), None)
    down = dense.linear("mlp_down") if dense else None
    body = next((layer.experts.body for layer in layers if layer.experts), ())
    inner = down or next((op for op in body if isinstance(op, Linear) and op.name == "expert_down"), None)
    if inner is None:
        raise InputError("export: megatron cannot express layers without a feed-forward network")
    biased = any(
        isinstance(op, Linear) and op.bias and op.name in ("attention_output", "mlp_down", "mlp_up", "mlp_gate_up")
        for layer in layers
        for op in layer.block.operators
    )
    operators = [op.name for layer in layers for op in (*layer.block.operators, *body)]
    found: Arguments = [("--ffn-hidden-size", str(inner.in_features))]
    if any(name.endswith("gate_up") for name in operators):
        if facts.activation not in _GATED_SILU:
            raise InputError(f"export: megatron cannot express a feed-forward gated by {facts.activation}")
        found += [("--swiglu",)]
    elif facts.activation == "relu2":
        found += [("--squared-relu",)]
    elif facts.activation not in _GELU:
        raise InputError(f"export: megatron cannot express the activation {facts.activation}")
    if not biased:
        found += [("--disable-bias-linear",)]
    return found


def _norms(layer: _Layer, facts: LaunchFacts) -> Arguments:
    norm = layer["attention_norm"]
    assert isinstance(norm, Norm)
    found: Arguments = [("--normalization", "LayerNorm" if norm.bias else "RMSNorm")]
    if facts.norm_epsilon is not None:
        found += [("--norm-epsilon", repr(facts.norm_epsilon))]
    return found


def _positions(graph: ModelGraph, layer: _Layer, facts: LaunchFacts) -> Arguments:
    embedding = next(run.block for run in graph.runs if run.block.role == "embedding")
    if any(isinstance(op, Embedding) and op.name == "position_embedding" for op in embedding.operators):
        return [("--position-embedding-type", "learned_absolute")]
    rotary = layer.get("rope")
    if not isinstance(rotary, Elementwise):
        raise InputError(f"export: megatron cannot express the positions of {graph.name} (neither learned nor rotary)")
    found: Arguments = [("--position-embedding-type", "rope")]
    if facts.rotary_base is not None:
        found += [("--rotary-base", str(round(facts.rotary_base)))]
    if facts.rotary_fraction is not None and facts.rotary_fraction != 1:
        found += [("--rotary-percent", repr(facts.rotary_fraction))]
    return found


def _mixture(graph: ModelGraph, layers: list[_Layer], facts: LaunchFacts) -> Arguments:
    mixtures = [layer for layer in layers if layer.experts]
    if not mixtures:
        return []
    if len({layer.experts for layer in mixtures}) != 1:
        raise InputError(f"export: megatron cannot express the different expert layers of {graph.name}")
    layer, experts = mixtures[0], mixtures[0].experts
    assert experts is not None
    down = next(op for op in experts.body if isinstance(op, Linear) and op.name == "expert_down")
    if layer.get("latent_down") is not None or layer.get("shared_gate") is not None:
        raise InputError(f"export: megatron cannot express the latent experts or shared gate of {graph.name}")
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
    if not all(sparse):
        found += [("--moe-layer-freq", "[" + ",".join(map(str, sparse)) + "]")]
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

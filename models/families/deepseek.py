"""Multi-head latent attention with leading dense layers and shared experts: DeepSeek V2, V3, R1 and Kimi K2.

DeepSeek-V2 (arXiv 2405.04434), DeepSeek-V3 (arXiv 2412.19437; section 2.2 for multi-token prediction).
"""

from __future__ import annotations

from ..blocks import FeedForward, LatentAttention, Mixture, norm
from ..fields import MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, Fields
from ..graph import Block, ModelGraph
from ..operators import Embedding, Linear, Operator
from .common import HEADS, HIDDEN, LAYERS, POSITIONS, Sizes, tied
from .mixtral import read_topk


def deepseek(fields: Fields, name: str) -> ModelGraph:
    """DeepSeek V2 and V2-Lite."""
    return _deepseek(fields, name, mtp=0)


def deepseek_v3(fields: Fields, name: str) -> ModelGraph:
    """DeepSeek V3, R1 and Kimi K2; `num_nextn_predict_layers` multi-token-prediction modules follow the head."""
    return _deepseek(fields, name, mtp=fields.count("num_nextn_predict_layers", low=0, high=MAX_LAYERS))


def read_latent_attention(fields: Fields, hidden: int, heads: int) -> LatentAttention:
    """The attention of a layer; a null `q_lora_rank` leaves Q uncompressed."""
    return LatentAttention(
        hidden=hidden,
        heads=heads,
        q_rank=fields.nullable_count("q_lora_rank"),
        kv_rank=fields.count("kv_lora_rank"),
        nope_dim=fields.count("qk_nope_head_dim"),
        rope_dim=fields.count("qk_rope_head_dim"),
        v_dim=fields.count("v_head_dim"),
        bias=fields.flag("attention_bias", default=False),
    )


def read_shared_mixture(fields: Fields, hidden: int) -> Mixture:
    """Routed experts and `n_shared_experts` fused into one wider expert."""
    experts = fields.count("n_routed_experts", "num_local_experts", "num_experts", high=MAX_EXPERTS)
    width = fields.count("moe_intermediate_size")
    shared = fields.count("n_shared_experts", low=0, high=MAX_EXPERTS)
    return Mixture(
        hidden=hidden, experts=experts, topk=read_topk(fields, experts), ffn=width, shared_ffn=shared * width
    )


def prediction_module(sizes: Sizes, layer: Block) -> Block:
    """One multi-token-prediction module: two norms, a projection of both inputs, a layer, and the shared tables."""
    hidden, vocab = sizes.hidden, sizes.vocab
    operators: tuple[Operator, ...] = (
        Embedding(name="token_embedding", rows=vocab, features=hidden, tied=True),
        norm("embedding_norm", hidden),
        norm("hidden_norm", hidden),
        Linear(name="mtp_projection", in_features=2 * hidden, out_features=hidden, split="column"),
        *layer.operators,
        norm("final_norm", hidden),
        Linear(name="lm_head", in_features=hidden, out_features=vocab, split="vocab", tied=True),
    )
    return Block(name="mtp", role="mtp", operators=operators)


def _deepseek(fields: Fields, name: str, mtp: int) -> ModelGraph:
    layers = fields.count(*LAYERS, high=MAX_LAYERS)
    sizes = _sizes(fields, layers)
    attention = read_latent_attention(fields, sizes.hidden, sizes.heads).operators()
    n_dense = fields.count("first_k_dense_replace", low=0, high=layers)
    if fields.count("moe_layer_freq", default=1) != 1:
        raise fields.refuse("moe_layer_freq", "must be 1 in this architecture")
    feed_forward = FeedForward(hidden=sizes.hidden, ffn=fields.count("intermediate_size"), gated=True)
    dense = sizes.frame().layer("dense", attention, feed_forward.operators())
    moe = sizes.frame().layer("moe", attention, read_shared_mixture(fields, sizes.hidden).operators())
    frame = sizes.model_frame(fields, name, tied(fields, False))
    modules = [prediction_module(sizes, moe)] * mtp
    return frame.model([dense] * n_dense + [moe] * (layers - n_dense), modules)


def _sizes(fields: Fields, layers: int) -> Sizes:
    heads = fields.count(*HEADS, high=MAX_HEADS)
    return Sizes(
        layers=layers,
        hidden=fields.count(*HIDDEN),
        heads=heads,
        kv_heads=heads,
        head_dim=fields.count("qk_nope_head_dim") + fields.count("qk_rope_head_dim"),
        vocab=fields.count("vocab_size", high=MAX_VOCAB),
        max_positions=fields.optional_count(*POSITIONS, high=MAX_POSITIONS),
    )

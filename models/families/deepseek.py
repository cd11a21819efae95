"""Multi-head latent attention, leading dense layers, shared experts: DeepSeek V2, V3, V3.2, R1, Kimi K2, GLM 5.

DeepSeek-V2 (arXiv 2405.04434), DeepSeek-V3 (arXiv 2412.19437; section 2.2 for multi-token prediction).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..attention import LatentAttention
from ..blocks import FeedForward, LayerFrame, ModelFrame, norm
from ..fields import MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, Fields
from ..graph import Block, ModelGraph
from ..operators import Embedding, Linear, Operator
from .common import HEADS, HIDDEN, LAYERS, POSITIONS, tied
from .experts import read_shared_mixture


def deepseek(fields: Fields, name: str) -> ModelGraph:
    """DeepSeek V2 and V2-Lite."""
    return _deepseek(fields, name, mtp=0)


def deepseek_v3(fields: Fields, name: str) -> ModelGraph:
    """DeepSeek V3, R1 and Kimi K2; `num_nextn_predict_layers` multi-token-prediction modules follow the head."""
    return _deepseek(fields, name, mtp=fields.count("num_nextn_predict_layers", low=0, high=MAX_LAYERS))


def deepseek_v32(fields: Fields, name: str) -> ModelGraph:
    """DeepSeek V3.2: each layer attends to the `index_topk` tokens that its indexer picks."""
    return _indexed(fields, name, ["full"] * fields.count(*LAYERS, high=MAX_LAYERS))


def glm_moe_dsa(fields: Fields, name: str) -> ModelGraph:
    """GLM 5: as DeepSeek V3.2; layers that `indexer_types` marks `shared` use the choice of the layer before."""
    layers = fields.count(*LAYERS, high=MAX_LAYERS)
    for unread in ("index_topk_pattern", "index_topk_freq"):
        if fields.has(unread):
            raise fields.refuse(unread, "must be written out as indexer_types")
    picks = fields.words("indexer_types", ("full", "shared"), layers) if fields.has("indexer_types") else ()
    return _indexed(fields, name, picks or ("full",) * layers)


def read_latent_attention(fields: Fields) -> LatentAttention:
    """The attention of a layer; a null `q_lora_rank` leaves Q uncompressed."""
    return LatentAttention(
        hidden=fields.count(*HIDDEN),
        heads=fields.count(*HEADS, high=MAX_HEADS),
        q_rank=fields.nullable_count("q_lora_rank"),
        kv_rank=fields.count("kv_lora_rank"),
        nope_dim=fields.count("qk_nope_head_dim"),
        rope_dim=fields.count("qk_rope_head_dim"),
        v_dim=fields.count("v_head_dim"),
        bias=fields.flag("attention_bias", default=False),
    )


def prediction_module(hidden: int, vocab: int, layer: Sequence[Operator]) -> Block:
    """One multi-token-prediction module: two norms, a projection of both inputs, a layer, and the shared tables."""
    operators: tuple[Operator, ...] = (
        Embedding(name="token_embedding", rows=vocab, features=hidden, tied=True),
        norm("embedding_norm", hidden),
        norm("hidden_norm", hidden),
        Linear(name="mtp_projection", in_features=2 * hidden, out_features=hidden, split="column"),
        *layer,
        norm("final_norm", hidden),
        Linear(name="lm_head", in_features=hidden, out_features=vocab, split="vocab", tied=True),
    )
    return Block(name="mtp", role="mtp", operators=operators)


def latent_model(fields: Fields, name: str, attentions: Sequence[LatentAttention], mtp: int) -> ModelGraph:
    """Leading dense layers, then mixtures, with the attention of each layer; modules are like the last layer."""
    hidden, layers = attentions[0].hidden, len(attentions)
    n_dense = fields.count("first_k_dense_replace", low=0, high=layers)
    if fields.count("moe_layer_freq", default=1) != 1:
        raise fields.refuse("moe_layer_freq", "must be 1 in this architecture")
    frame = LayerFrame(hidden=hidden)
    dense = FeedForward(hidden=hidden, ffn=fields.count("intermediate_size"), gated=True).operators()
    mixture = read_shared_mixture(fields, hidden).operators()
    blocks = {
        (attention, is_dense): frame.layer(
            "dense" if is_dense else "moe", attention.operators(), dense if is_dense else mixture
        )
        for attention in dict.fromkeys(attentions)
        for is_dense in (True, False)
    }
    chain = [blocks[attention, index < n_dense] for index, attention in enumerate(attentions)]
    vocab = fields.count("vocab_size", high=MAX_VOCAB)
    modules = [prediction_module(hidden, vocab, blocks[attentions[-1], False].operators)] * mtp
    positions = fields.optional_count(*POSITIONS, high=MAX_POSITIONS)
    is_tied = tied(fields, False)
    return ModelFrame(
        name=name,
        architecture=fields.architecture,
        hidden=hidden,
        vocab=vocab,
        max_positions=positions,
        tied=is_tied,
        assumptions=tuple(fields.assumptions),
    ).model(chain, modules)


def _deepseek(fields: Fields, name: str, mtp: int) -> ModelGraph:
    attention = read_latent_attention(fields)
    return latent_model(fields, name, [attention] * fields.count(*LAYERS, high=MAX_LAYERS), mtp)


def _indexed(fields: Fields, name: str, picks: Sequence[str]) -> ModelGraph:
    attention = replace(
        read_latent_attention(fields),
        selected=fields.count("index_topk", high=MAX_POSITIONS),
        index_heads=fields.count("index_n_heads", high=MAX_HEADS),
        index_dim=fields.count("index_head_dim"),
    )
    if attention.q_rank is None:
        raise fields.refuse("q_lora_rank", "must be set where an indexer reads the compressed query")
    attentions = [attention if pick == "full" else replace(attention, index_heads=0) for pick in picks]
    mtp = fields.count("num_nextn_predict_layers", low=0, high=MAX_LAYERS)
    return latent_model(fields, name, attentions, mtp)

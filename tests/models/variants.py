"""Small configurations that reach every branch of every family's reader, built by the libraries for the goldens."""

from __future__ import annotations

from typing import Any

DENSE = {
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 160,
    "max_position_embeddings": 128,
}
MOE = {**DENSE, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LOCAL_MOE = {**DENSE, "num_local_experts": 8, "num_experts_per_tok": 2}
LATENT = {
    **DENSE,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "moe_intermediate_size": 48,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "first_k_dense_replace": 2,
    "n_group": 1,
    "topk_group": 1,
}
INDEXED = {**LATENT, "num_nextn_predict_layers": 1, "index_n_heads": 4, "index_head_dim": 16, "index_topk": 32}
GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 32, "vocab_size": 160}
OPT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 96,
    "vocab_size": 160,
    "max_position_embeddings": 32,
}
FALCON = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8, "vocab_size": 160}
NEMOTRON_H = {
    **DENSE,
    "num_hidden_layers": 5,
    "hybrid_override_pattern": "M*-EM",
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "conv_kernel": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 40,
}
JAMBA = {
    **MOE,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 0,
    "mamba_expand": 2,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_dt_rank": "auto",
}
NEXT = {
    **MOE,
    "head_dim": 16,
    "shared_expert_intermediate_size": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
}
LLAMA4 = {**LOCAL_MOE, "num_experts_per_tok": 1, "intermediate_size_mlp": 80, "interleave_moe_layer_step": 2}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4, "vocab_size": 160}
WHISPER = {
    "d_model": 64,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 80,
    "num_mel_bins": 12,
    "max_source_positions": 30,
    "max_target_positions": 20,
    "vocab_size": 160,
}


def _of(architecture: str, *parts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {"architectures": [architecture]}
    for part in (*parts, changes):
        merged |= part
    return merged


VARIANTS: dict[str, dict[str, Any]] = {
    "llama with every bias, tied": _of(
        "LlamaForCausalLM", DENSE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=24
    ),
    "llama without kv heads": _of("LlamaForCausalLM", DENSE, num_key_value_heads=None),
    "granite tied": _of("GraniteForCausalLM", DENSE, tie_word_embeddings=True),
    "olmo 2 with bias": _of("Olmo2ForCausalLM", DENSE, attention_bias=True),
    "smollm 3 untied": _of("SmolLM3ForCausalLM", DENSE, tie_word_embeddings=False),
    "mistral without window": _of("MistralForCausalLM", DENSE, sliding_window=None, head_dim=32),
    "mixtral": _of("MixtralForCausalLM", LOCAL_MOE, sliding_window=16),
    "qwen 2 windowed late": _of(
        "Qwen2ForCausalLM", DENSE, use_sliding_window=True, sliding_window=16, max_window_layers=3
    ),
    "qwen 3 with bias": _of("Qwen3ForCausalLM", DENSE, attention_bias=True, head_dim=24),
    "qwen 2 moe with dense layers": _of(
        "Qwen2MoeForCausalLM",
        MOE,
        shared_expert_intermediate_size=40,
        mlp_only_layers=[0, 3],
        decoder_sparse_step=2,
        qkv_bias=False,
    ),
    "qwen 3 moe with dense layers": _of("Qwen3MoeForCausalLM", MOE, mlp_only_layers=[0], head_dim=24),
    "qwen 3 next with dense layers": _of("Qwen3NextForCausalLM", NEXT, mlp_only_layers=[1], attention_bias=True),
    "qwen 3.5": _of("Qwen3_5ForCausalLM", NEXT, tie_word_embeddings=True),
    "qwen 3.5 moe": _of("Qwen3_5MoeForCausalLM", NEXT),
    "qwen 3.5 moe wrapped": _of("Qwen3_5MoeForConditionalGeneration", text_config=NEXT),
    "qwen 3.5 wrapped": _of("Qwen3_5ForConditionalGeneration", text_config=NEXT),
    "qwen 3 wrapped": _of("Qwen3VLForConditionalGeneration", text_config={**DENSE, "head_dim": 24}),
    "qwen 3 moe wrapped": _of("Qwen3VLMoeForConditionalGeneration", text_config=MOE, tie_word_embeddings=True),
    "olmoe": _of("OlmoeForCausalLM", MOE, attention_bias=True),
    "deepseek v2 without query rank": _of("DeepseekV2ForCausalLM", LATENT, q_lora_rank=None),
    "deepseek v3 with bias": _of(
        "DeepseekV3ForCausalLM", LATENT, attention_bias=True, num_nextn_predict_layers=2, tie_word_embeddings=True
    ),
    "deepseek v3.2": _of("DeepseekV32ForCausalLM", INDEXED),
    "glm 5 with shared choices": _of(
        "GlmMoeDsaForCausalLM", INDEXED, indexer_types=["full", "full", "shared", "shared", "full", "shared"]
    ),
    "glm": _of("GlmForCausalLM", DENSE, head_dim=16),
    "glm 4 without bias": _of("Glm4ForCausalLM", DENSE, attention_bias=False, head_dim=16),
    "glm 4 moe": _of(
        "Glm4MoeForCausalLM",
        DENSE,
        head_dim=24,
        attention_bias=True,
        use_qk_norm=True,
        moe_intermediate_size=48,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_shared_experts=1,
        first_k_dense_replace=1,
        num_nextn_predict_layers=1,
    ),
    "gpt-oss": _of("GptOssForCausalLM", LOCAL_MOE, sliding_window=16),
    "gpt-oss without attention bias": _of(
        "GptOssForCausalLM", LOCAL_MOE, sliding_window=16, attention_bias=False, head_dim=16
    ),
    "minimax m2": _of("MiniMaxM2ForCausalLM", LOCAL_MOE, head_dim=24),
    "minimax text": _of(
        "MiniMaxForCausalLM",
        LOCAL_MOE,
        head_dim=24,
        layer_types=["linear_attention", "linear_attention", "full_attention"] * 2,
    ),
    "phi moe": _of("PhimoeForCausalLM", LOCAL_MOE, attention_bias=True, lm_head_bias=True),
    "phi with norms": _of("PhiForCausalLM", DENSE, num_key_value_heads=4, qk_layernorm=True),
    "phi 3": _of("Phi3ForCausalLM", DENSE),
    "gemma": _of("GemmaForCausalLM", DENSE, head_dim=24, attention_bias=True),
    "gemma 2 by pattern": _of("Gemma2ForCausalLM", DENSE, head_dim=24, sliding_window=16),
    "gemma 3 by defaults": _of(
        "Gemma3ForCausalLM", hidden_size=64, num_hidden_layers=7, intermediate_size=96, sliding_window=16
    ),
    "gemma 3 untied": _of("Gemma3ForCausalLM", DENSE, sliding_window=16, tie_word_embeddings=False),
    "cohere with norms": _of("CohereForCausalLM", DENSE, use_qk_norm=True, attention_bias=True),
    "cohere 2 by pattern": _of("Cohere2ForCausalLM", DENSE, sliding_window=16),
    "gpt-2 with inner width": _of("GPT2LMHeadModel", GPT2, n_inner=100, tie_word_embeddings=False),
    "bigcode with all heads": _of("GPTBigCodeForCausalLM", GPT2, multi_query=False),
    "gpt-j tied": _of("GPTJForCausalLM", GPT2, tie_word_embeddings=True, rotary_dim=8),
    "neox in sequence": _of(
        "GPTNeoXForCausalLM",
        {key: value for key, value in DENSE.items() if key != "num_key_value_heads"},
        use_parallel_residual=False,
        attention_bias=False,
    ),
    "opt normed after": _of("OPTForCausalLM", OPT, do_layer_norm_before=False, word_embed_proj_dim=32),
    "opt without bias": _of("OPTForCausalLM", OPT, enable_bias=False, _remove_final_layer_norm=True),
    "bloom": _of("BloomForCausalLM", hidden_size=64, n_layer=3, n_head=4, vocab_size=160),
    "mpt": _of("MptForCausalLM", d_model=64, n_layers=3, n_heads=4, vocab_size=160, attn_config={"alibi": True}),
    "falcon in sequence": _of("FalconForCausalLM", FALCON, parallel_attn=False, bias=True, alibi=True),
    "falcon with all heads": _of("FalconForCausalLM", FALCON, multi_query=False),
    "falcon new": _of("FalconForCausalLM", FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon new with one norm": _of(
        "FalconForCausalLM", FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1
    ),
    "starcoder 2 without bias": _of("Starcoder2ForCausalLM", DENSE, use_bias=False),
    "nemotron with bias": _of("NemotronForCausalLM", DENSE, attention_bias=True, mlp_bias=True),
    "nemotron-h": _of("NemotronHForCausalLM", NEMOTRON_H, use_bias=True, mlp_bias=True, use_conv_bias=False),
    "nemotron-h latent": _of(
        "NemotronHForCausalLM",
        NEMOTRON_H,
        mlp_bias=True,
        moe_latent_size=32,
        num_nextn_predict_layers=1,
        mtp_hybrid_override_pattern="*E",
    ),
    "jamba": _of("JambaForCausalLM", JAMBA, mamba_proj_bias=True, mamba_conv_bias=False),
    "jamba dense": _of("JambaForCausalLM", JAMBA, num_experts=1, mamba_dt_rank=8),
    "llama 4 interleaved": _of("Llama4ForCausalLM", LLAMA4, attention_bias=True),
    "llama 4 by lists": _of(
        "Llama4ForCausalLM", LLAMA4, moe_layers=[0, 4], no_rope_layers=[1, 0, 1, 1, 0, 1], use_qk_norm=False
    ),
    "t5 by defaults": _of("T5ForConditionalGeneration", T5),
    "t5 gated, uneven": _of("T5ForConditionalGeneration", T5, feed_forward_proj="gated-gelu", num_decoder_layers=2),
    "whisper": _of("WhisperForConditionalGeneration", WHISPER),
    "bert with three types": _of(
        "BertForMaskedLM",
        {key: value for key, value in DENSE.items() if key != "num_key_value_heads"},
        type_vocab_size=3,
    ),
    "wan without a cross norm": {
        "_class_name": "WanTransformer3DModel",
        "num_layers": 2,
        "num_attention_heads": 4,
        "attention_head_dim": 24,
        "ffn_dim": 100,
        "in_channels": 6,
        "out_channels": 4,
        "patch_size": [2, 2, 3],
        "text_dim": 40,
        "freq_dim": 32,
        "cross_attn_norm": False,
    },
    "llama 4 wrapped": _of("Llama4ForConditionalGeneration", text_config=LLAMA4),
    "gemma 3 wrapped, tied outside": _of(
        "Gemma3ForConditionalGeneration", text_config={**DENSE, "sliding_window": 16}, tie_word_embeddings=True
    ),
    "mistral 3 wrapped": _of("Mistral3ForConditionalGeneration", text_config={**DENSE, "sliding_window": None}),
}

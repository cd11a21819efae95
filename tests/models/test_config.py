"""Reading configurations: what is refused, by which field, and that nothing else ever happens."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.models import Attention, Experts, ModelError, ModelGraph, catalog_entry, parameters, read_config

from .variants import DENSE, LATENT, MOE, NEMOTRON_H, VARIANTS

LLAMA = {"architectures": ["LlamaForCausalLM"], **DENSE}

V4 = {**catalog_entry("deepseek-v4-flash").config, "num_hidden_layers": 2, "compress_ratios": [0, 4, 0]}


def refusal(document, **changes) -> str:
    """The one line that refuses a document."""
    with pytest.raises(ModelError) as caught:
        read_config({**document, **changes})
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def attentions(graph):
    """The attention of every layer."""
    return [op for block in graph.layer_blocks() for op in block.operators if isinstance(op, Attention)]


NO_SIZES = {
    "negative": -64,
    "zero": 0,
    "a trillion": 10**12,
    "5000 digits": 10**5000,
    "true": True,
    "text": "64",
    "fraction": 64.0,
    "nan": math.nan,
    "infinity": math.inf,
    "list": [64],
    "object": {"a": 1},
    "a million lines": "\n" * 10**6,
}


@pytest.mark.parametrize("value", NO_SIZES.values(), ids=NO_SIZES.keys())
def test_a_size_that_is_no_positive_bounded_integer_is_refused_by_name(value):
    text = refusal(LLAMA, hidden_size=value)
    assert text.startswith("field hidden_size must be an integer between 1 and ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-64, "-64"),
        pytest.param(10**5000, "an integer of 16610 bits", id="long"),
        (math.nan, "nan"),
        ([64], "a list of 1 items"),
        ({"a": 1}, "an object with 1 fields"),
        (b"64", "a bytes"),
        ("x" * 1000, "'xxxx"),
    ],
)
def test_the_refusal_says_what_was_got(value, shown):
    assert f"but got {shown}" in refusal(LLAMA, hidden_size=value)


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("remove", [True, False])
def test_a_missing_or_null_field_is_refused_by_name(field, remove):
    document = {key: value for key, value in LLAMA.items() if not (remove and key == field)}
    text = refusal(document, **({} if remove else {field: None}))
    assert text.startswith(f"field {field}") and "is missing: LlamaForCausalLM needs an integer" in text


def test_the_feed_forward_of_a_family_that_has_no_default_is_required():
    document = {key: value for key, value in LLAMA.items() if key != "intermediate_size"}
    assert refusal(document) == (
        "field intermediate_size is missing: LlamaForCausalLM needs an integer between 1 and 16777216"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"architectures": ["LamaForCausalLM"]}, "nearest known: LlamaForCausalLM"),
        pytest.param({"architectures": ["\n" * 10**6]}, "field architectures names an unknown family", id="long"),
        ({"architectures": []}, "field architectures must be a list of names but got a list of 0 items"),
        ({"architectures": "LlamaForCausalLM"}, "field architectures must be a list of names"),
        ({"architectures": [7]}, "field architectures must be a list of names"),
        ({"architectures": None}, "field architectures is missing"),
        ({"architectures": None, "model_type": "lama"}, "field model_type names an unknown family 'lama'"),
        ({"architectures": None, "model_type": 3}, "field model_type must be a name but got 3"),
        ({"architectures": None, "_class_name": 3}, "field _class_name must be a name but got 3"),
        ({"architectures": None, "_class_name": "WanTransformer2DModel"}, "nearest known: WanTransformer3DModel"),
    ],
)
def test_an_unknown_family_is_refused(changes, text):
    assert text in refusal(LLAMA, **changes)


def test_a_model_type_is_enough():
    document = {**LLAMA, "architectures": None, "model_type": "llama"}
    assert parameters(read_config(document)) == parameters(read_config(LLAMA))


@pytest.mark.parametrize("document", [None, [], "config", 3, True, math.nan])
def test_what_is_no_object_is_refused(document):
    with pytest.raises(ModelError, match="a model config must be an object of fields"):
        read_config(document)


def test_ten_thousand_fields_are_too_many():
    assert "at most 10000 fields" in refusal(LLAMA, **{f"x{index}": index for index in range(10_000)})


def test_a_deeply_nested_value_is_refused_or_ignored_without_recursion():
    nested: object = 1
    for _ in range(100_000):
        nested = [nested]
    assert "must be an integer" in refusal(LLAMA, hidden_size=nested)
    assert read_config({**LLAMA, "unread": nested}).hidden_size == 64
    assert "field text_config must be an object" in refusal(
        {"architectures": ["Gemma3ForConditionalGeneration"]}, text_config=nested
    )


@pytest.mark.parametrize(
    ("document", "changes", "text"),
    [
        (LLAMA, {"num_key_value_heads": 3}, "num_attention_heads must be a multiple of num_key_value_heads 3"),
        (LLAMA, {"num_attention_heads": 7}, "must be a multiple of"),
        (LLAMA, {"hidden_size": 66}, "field hidden_size must be a multiple of num_attention_heads 4 but got 66"),
        (LLAMA, {"n_embd": 65}, "field n_embd must equal hidden_size 64 but got 65"),
        (LLAMA, {"num_hidden_layers": 10**6}, "field num_hidden_layers must be an integer between 1 and 4096"),
        (LLAMA, {"tie_word_embeddings": "yes"}, "field tie_word_embeddings must be true or false but got 'yes'"),
        (LLAMA, {"attention_bias": 1}, "field attention_bias must be true or false but got 1"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(document, changes, text):
    assert text in refusal(document, **changes)


@pytest.mark.parametrize(
    ("architecture", "document", "changes", "text"),
    [
        (
            "Qwen3MoeForCausalLM",
            MOE,
            {"num_experts_per_tok": 9},
            "num_experts_per_tok must be an integer between 1 and 8",
        ),
        ("Qwen3MoeForCausalLM", MOE, {"mlp_only_layers": [6]}, "mlp_only_layers[0] must be an integer between 0 and 5"),
        ("Qwen3MoeForCausalLM", MOE, {"mlp_only_layers": [0] * 5000}, "must have at most 4096 items"),
        ("Qwen3MoeForCausalLM", MOE, {"use_sliding_window": True}, "use_sliding_window must be false"),
        ("Gemma2ForCausalLM", DENSE, {"layer_types": ["full_attention"]}, "layer_types must be a list of 6 items"),
        ("Gemma2ForCausalLM", DENSE, {"layer_types": ["full"] * 6}, "layer_types[0] must be one of full_attention"),
        ("Gemma2ForCausalLM", DENSE, {"layer_types": "full" * 6}, "layer_types must be a list of 6 items"),
        ("Gemma2ForCausalLM", DENSE, {}, "field sliding_window is missing"),
        (
            "MistralForCausalLM",
            DENSE,
            {},
            "field sliding_window is missing: MistralForCausalLM needs null or an integer",
        ),
        ("DeepseekV2ForCausalLM", LATENT, {"moe_layer_freq": 2}, "moe_layer_freq must be 1 in this architecture"),
        (
            "DeepseekV2ForCausalLM",
            LATENT,
            {"first_k_dense_replace": 7},
            "first_k_dense_replace must be an integer between",
        ),
        ("DeepseekV3ForCausalLM", LATENT, {}, "field num_nextn_predict_layers is missing"),
        (
            "GlmMoeDsaForCausalLM",
            LATENT,
            {"index_topk_freq": 4},
            "index_topk_freq must be written out as indexer_types but got 4",
        ),
        (
            "DeepseekV32ForCausalLM",
            LATENT,
            {"q_lora_rank": None, "index_topk": 8, "index_n_heads": 2, "index_head_dim": 8},
            "q_lora_rank must be set where an indexer",
        ),
        (
            "DeepseekV4ForCausalLM",
            V4,
            {"compress_ratios": [0, 8, 0]},
            "compress_ratios must name strides of 0, 4",
        ),
        ("DeepseekV4ForCausalLM", V4, {"compress_ratios": [0, 4]}, "compress_ratios must be a list of 3 items"),
        ("DeepseekV4ForCausalLM", V4, {"num_key_value_heads": 2}, "num_key_value_heads must be 1 in this architecture"),
        ("DeepseekV4ForCausalLM", V4, {"o_groups": 3}, "num_attention_heads must be a multiple of o_groups 3"),
        ("NemotronHForCausalLM", NEMOTRON_H, {"hybrid_override_pattern": "MX"}, "must be 1 to 4096 letters of M * - E"),
        ("NemotronHForCausalLM", NEMOTRON_H, {"hybrid_override_pattern": ""}, "must be 1 to 4096 letters"),
        ("NemotronHForCausalLM", NEMOTRON_H, {"num_hidden_layers": 6}, "must be the 5 layers of the pattern but got 6"),
        ("NemotronHForCausalLM", NEMOTRON_H, {"hybrid_override_pattern": None}, "field layers_block_type is missing"),
        (
            "OPTForCausalLM",
            DENSE,
            {"layer_norm_elementwise_affine": False},
            "layer_norm_elementwise_affine must be true",
        ),
        ("OPTForCausalLM", DENSE, {"max_position_embeddings": None}, "field max_position_embeddings is missing"),
        ("GPT2LMHeadModel", DENSE, {"max_position_embeddings": None}, "field n_positions is missing"),
        ("MptForCausalLM", DENSE, {"no_bias": False, "attn_config": {}}, "no_bias must be true but got False"),
        ("MptForCausalLM", DENSE, {"attn_config": {"alibi": False}}, "field attn_config.alibi must be true"),
        ("MptForCausalLM", DENSE, {"attn_config": {"qk_ln": True}}, "field attn_config.qk_ln must be false"),
        (
            "MptForCausalLM",
            DENSE,
            {"attn_config": {"attn_type": "grouped_query_attention"}},
            "field attn_config.attn_type must be one of multihead_attention",
        ),
        ("T5ForConditionalGeneration", {"d_model": 64}, {}, "field num_heads is missing"),
        ("Gemma3ForConditionalGeneration", DENSE, {}, "field text_config is missing"),
        (
            "Llama4ForConditionalGeneration",
            {},
            {"text_config": {**DENSE, "hidden_size": -1}},
            "field text_config.hidden_size must be an integer between 1 and",
        ),
    ],
)
def test_a_field_that_breaks_a_rule_of_its_family_is_refused(architecture, document, changes, text):
    assert text in refusal({"architectures": [architecture], **document}, **changes)


def test_t5_needs_a_known_feed_forward():
    config = VARIANTS["t5 gated, uneven"]
    assert "feed_forward_proj must be one of relu" in refusal(config, feed_forward_proj="gated-")


def test_a_default_of_the_configuration_class_is_used_and_noted():
    graph = read_config(LLAMA)
    assert "tie_word_embeddings not given: false, the default of LlamaForCausalLM" in graph.assumptions
    assert not read_config(
        {**LLAMA, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}
    ).assumptions


def test_a_wrapper_says_that_only_its_text_model_is_read():
    assert read_config(VARIANTS["llama 4 wrapped"]).assumptions[0].startswith("only the text model")


def test_the_name_is_that_given_or_the_architecture():
    assert read_config(LLAMA, name="mine").name == "mine"
    assert read_config(LLAMA).name == "LlamaForCausalLM"


def test_windows_follow_each_familys_pattern():
    windows = {name: [op.window for op in attentions(read_config(VARIANTS[name]))] for name in VARIANTS}
    assert windows["gemma 2 by pattern"] == [16, None, 16, None, 16, None]
    assert windows["gemma 3 by defaults"] == [16] * 5 + [None, 16]
    assert windows["cohere 2 by pattern"] == [16, 16, 16, None, 16, 16]
    assert windows["gpt-oss"] == [16, None] * 3
    assert windows["qwen 2 windowed late"] == [None] * 3 + [16] * 3
    assert windows["mixtral"] == [16] * 6


@pytest.mark.parametrize("name", ["qwen 2 windowed late", "gemma 2 by pattern", "llama 4 interleaved", "qwen 3.5"])
def test_layer_types_say_the_same_as_the_pattern_they_replace(name):
    config = VARIANTS[name]
    words = {
        "qwen 2 windowed late": ["full_attention"] * 3 + ["sliding_attention"] * 3,
        "gemma 2 by pattern": ["sliding_attention", "full_attention"] * 3,
        "llama 4 interleaved": ["chunked_attention"] * 3 + ["full_attention"] + ["chunked_attention"] * 2,
        "qwen 3.5": ["linear_attention"] * 3 + ["full_attention"] + ["linear_attention"] * 2,
    }[name]
    assert read_config({**config, "layer_types": words}).runs == read_config(config).runs


def test_minimax_m2_leaves_its_prediction_modules_out_and_says_so():
    config = VARIANTS["minimax m2"]
    graph = read_config({**config, "num_mtp_modules": 3, "shared_intermediate_size": 0})
    assert any("num_mtp_modules" in note for note in graph.assumptions)
    assert parameters(graph) == parameters(read_config(config))
    assert "shared_intermediate_size must be an integer between 0 and 0" in refusal(config, shared_intermediate_size=8)


def test_chatglm_must_say_whether_its_tables_are_tied():
    document = {"architectures": ["ChatGLMModel"], "num_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    assert "field multi_query_attention is missing: ChatGLMModel needs true or false" in refusal(document)


def test_llama_4_attends_in_chunks_except_where_it_does_not_rotate():
    chunked = [op.chunked for op in attentions(read_config(VARIANTS["llama 4 by lists"]))]
    assert chunked == [True, False, True, True, False, True]


def test_sparse_layers_follow_their_fields():
    graph = read_config(VARIANTS["qwen 2 moe with dense layers"])
    sparse = [any(isinstance(op, Experts) for op in block.operators) for block in graph.layer_blocks()]
    assert sparse == [False, True, False, False, False, True]


def test_multi_token_prediction_stands_after_the_head_and_is_not_counted():
    graph = read_config(VARIANTS["deepseek v3 with bias"])
    assert [run.block.role for run in graph.runs] == ["embedding", "layer", "layer", "head", "mtp"]
    assert graph.runs[-1].repeat == 2
    assert parameters(graph, mtp=True) == parameters(graph) + 2 * graph.runs[-1].block.parameters


def test_chatglm_is_read_in_its_own_field_names():
    ours = {
        "architectures": ["ChatGLMModel"],
        "num_layers": 6,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "kv_channels": 16,
        "ffn_hidden_size": 96,
        "padded_vocab_size": 160,
        "seq_length": 128,
        "rmsnorm": True,
        "post_layer_norm": True,
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "tie_word_embeddings": False,
    }
    glm = read_config(VARIANTS["glm"])
    assert parameters(read_config(ours)) == parameters(glm)
    assert attentions(read_config({**ours, "multi_query_attention": False}))[0].kv_heads == 4
    assert "rmsnorm must be true" in refusal(ours, rmsnorm=False)


def test_nemotron_h_reads_lists_of_words_and_the_older_name_of_head_dim():
    pattern = {"architectures": ["NemotronHForCausalLM"], **NEMOTRON_H}
    words = {
        **pattern,
        "hybrid_override_pattern": None,
        "layers_block_type": ["mamba", "attention", "mlp", "moe", "linear_attention"],
        "head_dim": None,
        "attention_head_dim": 16,
    }
    assert parameters(read_config(words)) == parameters(read_config(pattern))


def test_minimax_reads_numbers_or_words_for_its_layers():
    words = VARIANTS["minimax text"]
    numbers = {**words, "layer_types": None, "attn_type_list": [0, 0, 1] * 2}
    assert parameters(read_config(numbers)) == parameters(read_config(words))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([0, 1, 2, 4, 64]),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(data=st.data())
def test_whatever_a_field_holds_the_reader_makes_a_graph_or_refuses_in_one_line(data):
    config = dict(VARIANTS[data.draw(st.sampled_from(sorted(VARIANTS)))])
    for field in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        config[field] = data.draw(JSON)
    try:
        graph = read_config(config)
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(graph, ModelGraph)
        assert parameters(graph) > 0


def test_a_configuration_survives_json():
    for config in VARIANTS.values():
        assert read_config(json.loads(json.dumps(config))) == read_config(config)

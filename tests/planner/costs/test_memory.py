from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.models import TransformerShape, model, transformer
from shardwright.planner.costs.coefficients import coefficients
from shardwright.planner.costs.compute import device_of
from shardwright.planner.costs.keys import block_keys
from shardwright.planner.costs.memory import block_parameters, input_bytes, saved_bytes, state_bytes
from shardwright.planner.costs.step import TrainingCosts
from shardwright.planner.workload.strategy_table import table_of_columns
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import accelerator, cluster

H, A, S, B = 6144, 64, 2048, 4
GPT = transformer(
    TransformerShape(
        layers=2, hidden=H, heads=A, ffn=4 * H, vocab=51200, bias=True, learned_positions=True, max_positions=S
    )
)
LAYER = next(block for block in GPT.blocks if block.role == "layer")


def device(framework="megatron-2021", precision="fp16"):
    a100 = accelerator("a100-80gb")
    return device_of(a100, precision, coefficients(a100.architecture, precision, framework))


def kept(modules=(), **columns):
    keys, _ = block_keys(table_of_columns({"mbs": B, **columns}, 1), S)
    return float(saved_bytes(LAYER, keys, device(), modules)[0])


def test_a_gpt_layer_keeps_what_korthikanti_et_al_count():
    assert kept() == pytest.approx(S * B * H * (34 + 5 * A * S / H))


def test_tensor_parallelism_divides_only_part_of_it():
    assert kept(tp=8) == pytest.approx(S * B * H * (10 + 24 / 8 + 5 * A * S / (H * 8)))


def test_sequence_parallelism_divides_all_of_it():
    assert kept(tp=8, sp=1) == pytest.approx(S * B * H / 8 * (34 + 5 * A * S / H))


def test_recomputing_the_attention_core_frees_the_scores():
    assert kept(("core_attention",), tp=8, sp=1) == pytest.approx(34 * S * B * H / 8)


def test_recomputing_a_fused_attention_keeps_the_whole_projection_that_its_values_are_a_part_of():
    keys, _ = block_keys(table_of_columns({"mbs": B, "tp": 4}, 1), S)
    llama = next(block for block in model("llama-3.1-8b").blocks if block.role == "layer")
    fused = device("megatron-2025", "bf16")
    more = saved_bytes(llama, keys, fused, ("core_attention",)) - saved_bytes(llama, keys, fused, ())
    assert float(more[0]) == 2 * S * B * (32 + 8) * 128 / 4


@pytest.mark.parametrize(("tp", "sp", "cp"), [(1, 0, 1), (2, 1, 4), (4, 0, 2)])
def test_a_video_layer_keeps_its_text_once_and_undivided_norms_of_its_heads(tp, sp, cp):
    """Counted tensor by tensor: three norms across heads see whole features on all tokens, whatever divides the rest;
    K and V of the text, and what K's norm kept, are those of 512 tokens."""
    layer = next(block for block in model("wan2.1-t2v-14b").blocks if block.role == "layer")
    hidden, ffn, video, text = 5120, 13824, 37440, 512
    entering = 10 * (hidden / tp if sp else hidden)  # of three norms, two modulations, three products, two gates
    whole = 3 * hidden
    divided = (6 * hidden + 2 * ffn) / tp  # Q, K, V, Q for the text, the outputs of both; around the activation
    beside = text * (hidden + 2 * hidden / tp)
    keys, _ = block_keys(table_of_columns({"mbs": 1, "tp": tp, "sp": sp, "cp": cp}, 1), video)
    made = float(saved_bytes(layer, keys, device("megatron-2025", "bf16"), ())[0])
    assert made == pytest.approx(2 / cp * (video * (entering + whole + divided) + beside))


def test_only_models_that_drop_keep_masks():
    """Llama has no dropout, GPT-2 has in both its branches, whatever generation of software trains it."""
    job = TrainingJob(gbs=8, sequence_length=1024)
    topology = cluster("dgx-a100:1")
    for framework in ("megatron-2024", "megatron-2025"):
        at = msgspec.structs.replace(job, framework=framework)
        drops = [
            TrainingCosts(model(name), topology, at).device.coefficients.framework.dropout
            for name in ("llama-3.1-8b", "gpt2")
        ]
        assert drops == [False, True]
    bare = TrainingCosts(GPT, topology, job).device.coefficients.framework
    assert bare.dropout == coefficients("Ampere", "bf16", job.framework).framework.dropout


def test_full_recompute_keeps_the_layer_input():
    keys, _ = block_keys(table_of_columns({"mbs": B}, 1), S)
    assert float(input_bytes(H, keys, device())[0]) == 2 * S * B * H


def test_context_parallelism_divides_the_tokens():
    assert kept(("core_attention",), cp=4) == pytest.approx(kept(("core_attention",)) / 4)


def test_parameters_on_every_rank_together_are_the_model():
    keys, _ = block_keys(table_of_columns({"tp": [1, 2, 8]}, 3), S)
    divided = block_parameters(LAYER, keys).dense * keys.tp
    assert divided[0] == LAYER.parameters
    assert np.all(divided >= LAYER.parameters)
    assert divided[2] < 1.001 * LAYER.parameters


def test_experts_are_divided_over_ep_and_etp():
    moe = next(block for block in model("mixtral-8x7b").blocks if block.role == "layer")
    keys, _ = block_keys(table_of_columns({"ep": [1, 8, 4], "etp": [1, 1, 2], "tp": [1, 1, 2], "sp": [0, 0, 1]}, 3), S)
    expert = block_parameters(moe, keys).expert
    assert expert[0] == 8 * expert[1] == 8 * expert[2]


@pytest.mark.parametrize(
    ("precision", "optimizer", "bytes_per_parameter"),
    [
        ("bf16", "adam", 2 + 4 + 12),
        ("fp32", "adam", 4 + 4 + 8),
        ("bf16", "sgd", 2 + 4 + 4),
        ("bf16", "muon", 2 + 4 + 8),
    ],
)
def test_states_cost_what_mixed_precision_training_says(precision, optimizer, bytes_per_parameter):
    job = TrainingJob(gbs=1, sequence_length=1, precision=precision, optimizer=optimizer)
    states = state_bytes(job, device(precision=precision))
    assert states.weights + states.gradients + states.optimizer == bytes_per_parameter


def test_a_mixture_frees_expert_activations_when_they_are_recomputed():
    moe = next(block for block in model("mixtral-8x7b").blocks if block.role == "layer")
    keys, _ = block_keys(table_of_columns({"mbs": 1}, 1), S)
    whole = saved_bytes(moe, keys, device("megatron-2024", "bf16"), ())
    less = saved_bytes(moe, keys, device("megatron-2024", "bf16"), ("activation",))
    assert float((whole - less)[0]) == 2 * 14336 * 2 * S


def test_latent_up_projections_free_queries_keys_and_values():
    latent = next(block for block in model("deepseek-v3").blocks if block.role == "layer")
    keys, _ = block_keys(table_of_columns({"mbs": 1}, 1), S)
    whole = saved_bytes(latent, keys, device("megatron-2024", "bf16"), ())
    less = saved_bytes(latent, keys, device("megatron-2024", "bf16"), ("mla_up",))
    assert float((whole - less)[0]) == 128 * (192 + 192 + 128) * 2 * S


def test_a_parallel_layer_shares_one_input():
    serial = kept()
    shared = msgspec.structs.replace(
        LAYER,
        operators=tuple(
            msgspec.structs.replace(op, shared_input=True) if op.name == "mlp_up" else op for op in LAYER.operators
        ),
    )
    keys, _ = block_keys(table_of_columns({"mbs": B}, 1), S)
    assert serial - float(saved_bytes(shared, keys, device(), ())[0]) == 2 * S * B * H

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from shardwright.models import Attention, Experts, Linear, model
from shardwright.planner.costs.coefficients import coefficients
from shardwright.planner.costs.compute import device_of, operator_times
from shardwright.planner.costs.keys import block_keys
from shardwright.planner.workload.strategy_table import table_of_columns
from shardwright.topologies import TopologyError, accelerator


def device(name="h100", precision="bf16", framework="megatron-2024"):
    chosen = accelerator(name)
    return device_of(chosen, precision, coefficients(chosen.architecture, precision, framework))


def keys(**columns):
    return block_keys(table_of_columns({"mbs": 1, **columns}, None if columns else 1), 4096)[0]


LAYER = next(block for block in model("llama-3.1-8b").blocks if block.role == "layer")


def test_no_operator_beats_the_peak_or_the_memory():
    h100 = device()
    for op in LAYER.operators:
        times = operator_times(op, keys(tp=[1, 2, 4, 8]), h100)
        assert np.all(times.forward >= times.flops / h100.peak_flops)
        assert np.all(times.forward > 0)


def test_a_product_costs_its_hand_computed_roofline():
    h100 = device()
    kernels = h100.coefficients.kernels
    times = operator_times(Linear(name="x", in_features=4096, out_features=8192, split="column"), keys(tp=2), h100)
    m, n, k = 4096, 4096, 4096
    slowdown = (1 + kernels.gemm_k_half / k) * (1 + kernels.gemm_output_half / (m * n))
    expected = 2 * m * n * k * slowdown / (989e12 * kernels.gemm_fraction) + kernels.kernel_s
    assert times.forward[0] == pytest.approx(expected)
    assert times.flops[0] == 2 * m * n * k


def test_small_shards_are_less_efficient():
    op = Linear(name="x", in_features=4096, out_features=4096, split="column")
    times = operator_times(op, keys(tp=[1, 8, 32]), device())
    rates = times.flops / times.forward
    assert rates[0] > rates[1] > rates[2]


def test_the_more_devices_the_slower_the_slowest_computes():
    op = Linear(name="x", in_features=8192, out_features=8192, split="column")
    spread = device().coefficients.kernels.device_spread
    times = [
        operator_times(op, keys(), dataclasses.replace(device(), together=n)).forward[0] for n in (1, 8, 512, 16384)
    ]
    assert times[0] < times[1] < times[2] < times[3] < times[0] * (1 + 4.5 * spread)


def test_the_slowest_device_moves_bytes_as_fast_as_any():
    norm = next(op for op in LAYER.operators if op.name.endswith("norm"))
    alone, together = (operator_times(norm, keys(), dataclasses.replace(device(), together=n)) for n in (1, 4096))
    assert alone.forward == together.forward


def test_backward_of_a_product_is_two_products():
    times = operator_times(Linear(name="x", in_features=4096, out_features=4096, split="column"), keys(), device())
    assert times.backward_input[0] + times.backward_weight[0] == pytest.approx(2 * times.forward[0], rel=0.05)


def test_fp8_speeds_up_layers_but_not_the_vocabulary():
    wide, narrow = device(), device(precision="fp8")
    layer = Linear(name="x", in_features=8192, out_features=28672, split="column")
    head = Linear(name="head", in_features=8192, out_features=128256, split="vocab")
    assert operator_times(layer, keys(), narrow).forward < 0.7 * operator_times(layer, keys(), wide).forward
    assert operator_times(head, keys(), narrow).forward == operator_times(head, keys(), wide).forward


def test_experts_work_on_the_tokens_sent_to_them():
    op = next(op for block in model("mixtral-8x7b").blocks for op in block.operators if isinstance(op, Experts))
    times = operator_times(op, keys(ep=[1, 8]), device())
    assert times.flops[0] == times.flops[1] == 4096 * op.flops_per_token


def test_grouped_products_have_an_efficiency_of_their_own_at_each_precision():
    op = next(op for block in model("mixtral-8x7b").blocks for op in block.operators if isinstance(op, Experts))
    h100 = device(precision="fp8")
    for field, slower in (("kernels", False), ("low_precision_kernels", True)):
        halved = msgspec.structs.replace(getattr(h100.coefficients, field), grouped_gemm_fraction=0.2)
        chosen = msgspec.structs.replace(h100.coefficients, **{field: halved})
        changed = operator_times(op, keys(), dataclasses.replace(h100, coefficients=chosen))
        assert bool(changed.forward[0] > 1.2 * operator_times(op, keys(), h100).forward[0]) is slower


def test_experts_with_biases_pay_for_adding_them():
    op = next(op for block in model("gpt-oss-120b").blocks for op in block.operators if isinstance(op, Experts))
    plain = msgspec.structs.replace(
        op,
        body=tuple(msgspec.structs.replace(each, bias=False) if isinstance(each, Linear) else each for each in op.body),
    )
    chosen = device(framework="megatron-2026")
    framework = msgspec.structs.replace(chosen.coefficients.framework, biased_activation_passes=3.0)
    three = dataclasses.replace(chosen, coefficients=msgspec.structs.replace(chosen.coefficients, framework=framework))
    extra = operator_times(op, keys(), three).forward - operator_times(plain, keys(), three).forward
    width = 5760 + 2880
    assert extra[0] == pytest.approx(float(three.traffic_s(np.float64(2 * 4096 * op.topk * width * 2.0))))


def test_attention_of_narrow_heads_is_slower_for_the_same_products():
    wide = Attention(name="core_attention", heads=32, kv_heads=32, qk_head_dim=128, v_head_dim=128, causal=True)
    narrow = msgspec.structs.replace(wide, heads=64, kv_heads=64, qk_head_dim=64, v_head_dim=64)
    h100 = device()
    times = [operator_times(op, keys(), h100) for op in (wide, narrow)]
    assert times[0].flops[0] == times[1].flops[0]
    exponent = h100.coefficients.kernels.attention_exponent_features
    expected = (1 + exponent / 64) / (1 + exponent / 128)
    kernel = h100.kernel_s
    assert times[1].forward[0] - kernel == pytest.approx(expected * (times[0].forward[0] - kernel))


def test_an_unfused_kernel_pays_for_every_score():
    attention = next(op for op in LAYER.operators if op.name == "core_attention")
    fused, unfused = device(), device(framework="megatron-2021")
    assert operator_times(attention, keys(), unfused).forward > 2 * operator_times(attention, keys(), fused).forward


def test_an_accelerator_without_the_dtype_is_refused():
    with pytest.raises(TopologyError, match="fp8"):
        device("a100-80gb", "fp8")

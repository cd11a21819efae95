from dataclasses import replace

import msgspec
import numpy as np
import pytest

from shardwright.models import TransformerShape, model, transformer
from shardwright.planner.costs.serving.coefficients import engine, host_factor, kernels
from shardwright.planner.costs.serving.communication import fabric
from shardwright.planner.costs.serving.memory import replica_memory
from shardwright.planner.costs.serving.shapes import check_layout, has_experts, replica_shapes
from shardwright.planner.costs.serving.step import Machine, step_cost
from shardwright.planner.errors import InputError
from shardwright.planner.serving.schedule import StepTable
from shardwright.planner.workload.serving_layout import Layout, Speculation, quantization
from shardwright.topologies import cluster

BATCHES = np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256])


def machine(name="hgx-h200", engine_name="vllm"):
    links = fabric(cluster(name))
    device = links.accelerator
    figures = kernels(device.architecture, device.name)[0]
    return Machine(links, figures, engine(engine_name)[0], host_factor(device.name))


def cost(layout=None, formats="bf16", name="llama-3.1-8b", on="hgx-h200", speculation=None):
    return step_cost(model(name), machine(on), layout or Layout(), quantization(formats), speculation)


MOE = TransformerShape(
    layers=4, hidden=1024, heads=16, kv_heads=4, vocab=32000, gated=True, norm="rms", experts=16, topk=2, moe_ffn=512
)


@pytest.mark.parametrize(
    "name",
    ["llama-3.1-8b", "qwen3-32b", "mixtral-8x7b", "deepseek-v3", "deepseek-v3.2", "gpt-oss-20b", "gemma-3-27b",
     "nemotron-h-8b", "deepseek-v4-flash"],
)  # fmt: skip
@pytest.mark.parametrize("layout", [Layout(tp=4), Layout(tp=2, pp=2)], ids=["tp4", "tp2-pp2"])
def test_a_decode_step_takes_longer_with_batch_and_with_context(name, layout):
    if has_experts(model(name)):
        layout = msgspec.structs.replace(layout, ep=layout.tp)
    found = cost(layout, "fp8", name)
    step = found.decode_seconds(BATCHES[:, None], np.array([[128.0, 512.0, 2048.0, 8192.0, 32768.0, 100_000.0]]))
    assert (np.diff(step, axis=0) > 0).all()
    assert (np.diff(step, axis=1) > 0).all()


def test_decode_reads_the_cache_in_proportion_to_the_context():
    found = cost()
    step = found.decode_seconds(32.0, np.array([10_000.0, 20_000.0, 30_000.0]))
    assert step[2] - step[1] == pytest.approx(step[1] - step[0])


def test_a_sliding_window_stops_the_growth():
    found = cost(name="mistral-7b")
    step = found.decode_seconds(8.0, np.array([2000.0, 4096.0, 8192.0, 30_000.0]))
    assert step[0] < step[1] == pytest.approx(step[2]) == pytest.approx(step[3])


def test_fp8_weights_decode_faster_than_bf16_and_fp4_faster_still():
    bf16 = cost().decode_seconds(8.0, 1000.0)
    fp8 = cost(formats="fp8").decode_seconds(8.0, 1000.0)
    assert fp8 < 0.8 * bf16
    on_blackwell = [float(cost(formats=each, on="hgx-b200").decode_seconds(8.0, 1000.0)) for each in ("fp8", "nvfp4")]
    assert on_blackwell[1] < on_blackwell[0]


def test_weight_only_formats_save_time_in_decode_but_not_in_prefill():
    narrow, wide = cost(formats="w4a16"), cost()
    assert narrow.decode_seconds(4.0, 500.0) < 0.7 * wide.decode_seconds(4.0, 500.0)
    prefill = [float(each.seconds(0.0, 0.0, 8192.0, 0.0)) for each in (narrow, wide)]
    assert prefill[0] == pytest.approx(prefill[1], rel=0.1)


def test_an_fp8_cache_reads_faster():
    long = 60_000.0
    assert cost(formats="bf16+kv8").decode_seconds(32.0, long) < cost().decode_seconds(32.0, long)


def test_formats_a_device_cannot_compute_are_widened():
    assert machine("hgx-a100").peak("fp8")[1] == "bf16"
    assert machine("hgx-h200").peak("fp4")[1] == "fp8"


@pytest.mark.parametrize("name", ["llama-3.1-70b", "qwen3-32b"])
def test_more_tp_never_raises_prefill_throughput_per_device(name):
    tokens = np.array([128.0, 1024.0, 8192.0])
    seconds = [cost(Layout(tp=tp), "fp8", name).seconds(0.0, 0.0, tokens, 0.0) for tp in (1, 2, 4, 8)]
    per_device = np.array([tokens / each / tp for each, tp in zip(seconds, (1, 2, 4, 8), strict=True)])
    assert (np.diff(per_device, axis=0) < 0).all()


def test_more_tp_lowers_latency():
    steps = [float(cost(Layout(tp=tp), name="llama-3.1-70b").decode_seconds(8.0, 2000.0)) for tp in (1, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True)


def test_a_pipeline_does_not_shorten_the_step_of_one_sequence():
    one, four = cost(), cost(Layout(pp=4))
    assert four.decode_seconds(1.0, 1000.0) >= one.decode_seconds(1.0, 1000.0) * 0.99
    assert four.decode_seconds(256.0, 1000.0) < one.decode_seconds(256.0, 1000.0)


def test_a_longer_start_makes_a_chunk_dearer():
    seconds = cost().seconds(0.0, 0.0, 2048.0, np.array([0.0, 8192.0, 65_536.0]))
    assert (np.diff(seconds) > 0).all()


def test_chunks_beside_decodes_cost_more_than_either_alone():
    found = cost()
    both = found.seconds(32.0, 1000.0, 1024.0, 0.0)
    assert both > found.decode_seconds(32.0, 1000.0)
    assert both > found.seconds(0.0, 0.0, 1024.0, 0.0) - found.step_s


def test_experts_cost_more_as_more_of_them_see_a_token():
    graph = transformer(MOE)
    found = step_cost(graph, machine(), Layout(), quantization("bf16"))
    few, many = found.stage_s[1], float(np.interp(64, np.arange(found.stage_s.size), found.stage_s))
    assert few < many


def test_wide_expert_parallelism_reads_fewer_weights_per_device():
    graph = model("deepseek-v3")
    tp = replica_shapes(graph, Layout(tp=8, moe_tp=8), quantization("fp8"))
    wide = replica_shapes(graph, Layout(attn_dp=64, ep=64), quantization("fp8"))
    assert wide.experts[0].held == tp.experts[0].held / 64
    assert wide.weight_bytes < tp.weight_bytes


def test_expert_imbalance_slows_expert_parallelism_only():
    import msgspec

    graph = transformer(MOE)
    even = machine()
    skewed = replace(even, engine=msgspec.structs.replace(even.engine, imbalance=2.0))
    ep, tp = Layout(tp=4, ep=4), Layout(tp=4, moe_tp=4)
    prompt = (0.0, 0.0, 8192.0, 0.0)
    bf16 = quantization("bf16")
    assert step_cost(graph, skewed, ep, bf16).seconds(*prompt) > step_cost(graph, even, ep, bf16).seconds(*prompt)
    assert step_cost(graph, skewed, tp, bf16).seconds(*prompt) == step_cost(graph, even, tp, bf16).seconds(*prompt)


def test_speculation_checks_more_tokens_and_yields_more():
    plain, drafted = cost(name="llama-3.1-8b"), cost(speculation=Speculation(draft_tokens=2, acceptance=0.8))
    assert drafted.tokens_per_step == pytest.approx(1 + 0.8 + 0.64)
    step, longer = plain.decode_seconds(4.0, 500.0), drafted.decode_seconds(4.0, 500.0)
    assert step < longer < step * drafted.tokens_per_step


def test_a_grace_host_is_slower_where_the_host_decides():
    x86, grace = cost(on="hgx-h200", name="llama-3.2-1b"), cost(on="gh200", name="llama-3.2-1b")
    assert grace.step_s > x86.step_s


def test_every_prompt_of_a_step_costs_the_host_its_own_time():
    busy = machine()
    busy = replace(busy, engine=msgspec.structs.replace(busy.engine, prompt_s=1e-3), host=1.0)
    found = step_cost(model("llama-3.1-8b"), busy, Layout(), quantization("bf16"))
    free = replace(found, prompt_s=0.0)
    one, eight = (
        float(found.linear_seconds(0.0, 4096.0, prompts) - free.linear_seconds(0.0, 4096.0, prompts))
        for prompts in (1.0, 8.0)
    )
    assert (one, eight) == pytest.approx((1e-3, 8e-3))
    table = StepTable(found)
    assert table.loaded(3, 4096, 8) - StepTable(free).loaded(3, 4096, 8) == pytest.approx(8e-3)


def test_query_heads_that_share_a_cached_head_slow_engines_without_tensor_cores_for_them():
    def step(name, slower):
        old = machine()
        old = replace(old, engine=msgspec.structs.replace(old.engine, grouped=slower))
        return float(step_cost(model(name), old, Layout(), quantization("bf16")).read_seconds(32.0, 8000.0))

    assert step("llama-3.1-8b", 30.0) > 1.2 * step("llama-3.1-8b", 1.0)
    assert step("llama-2-7b", 30.0) == step("llama-2-7b", 1.0)


def test_dense_layers_are_whole_in_every_attention_group():
    graph = model("deepseek-v3")
    one, eight = (
        replica_shapes(graph, Layout(tp=1, attn_dp=groups, ep=groups), quantization("fp8")) for groups in (1, 8)
    )
    assert (one.own.n @ one.own.count, one.gathers) == (eight.own.n @ eight.own.count, eight.gathers)


def test_logits_of_all_sequences_are_gathered_on_every_rank():
    graph, links, bf16 = model("llama-3.1-8b"), fabric(cluster("hgx-h100")), quantization("bf16")
    few, many = (msgspec.structs.replace(engine("vllm")[0], max_sequences=most) for most in (256, 2048))
    shapes = replica_shapes(graph, Layout(tp=8), bf16)
    spaces = [
        replica_memory(graph, shapes, links, Layout(tp=8), (bf16, each, 1000.0)).workspace_bytes for each in (few, many)
    ]
    assert spaces[1] - spaces[0] == (2048 - 256) * 128256 * 4


def test_kv_bytes_follow_kv_heads_and_are_copied_beyond_them():
    def cached(tp):
        shapes = replica_shapes(model("llama-3.1-70b"), Layout(tp=tp), quantization("bf16"))
        return sum(each.layers * each.cache_elements for each in shapes.attention)

    assert cached(1) == 80 * 8 * 128 * 2
    assert cached(8) == cached(1) / 8
    assert cached(16) == cached(8)


def test_mla_keeps_one_latent_on_every_rank():
    for tp in (1, 8):
        shapes = replica_shapes(model("deepseek-v3"), Layout(tp=tp, moe_tp=tp), quantization("bf16"))
        assert [each.cache_elements for each in shapes.attention] == [576]


def test_weights_of_one_device_are_the_models_own():
    shapes = replica_shapes(model("llama-3.1-8b"), Layout(), quantization("bf16"))
    assert shapes.weight_bytes == pytest.approx(2 * 8_030_261_248, rel=1e-3)


def test_what_does_not_fit_leaves_no_cache():
    graph, links = model("llama-3.1-405b"), fabric(cluster("hgx-h100"))
    bf16 = quantization("bf16")
    memory = replica_memory(
        graph, replica_shapes(graph, Layout(tp=8), bf16), links, Layout(tp=8), (bf16, engine("vllm")[0], 1000.0)
    )
    assert memory.cache_bytes < 0
    assert memory.cache_tokens == 0


def test_layouts_that_do_not_divide_the_model_are_named():
    with pytest.raises(InputError, match=r"tp must divide the 32 heads of llama-3.1-8b but got 24"):
        check_layout(model("llama-3.1-8b"), Layout(tp=24))
    with pytest.raises(InputError, match="pp must be at most the 32 layers"):
        check_layout(model("llama-3.1-8b"), Layout(pp=33))
    with pytest.raises(InputError, match="ep must divide the 256 experts"):
        check_layout(model("deepseek-v3"), Layout(attn_dp=3, ep=3))


def test_unknown_engines_and_versions_say_so():
    with pytest.raises(InputError, match="engine must be one of"):
        engine("magic")
    assert engine("vllm", "0.11.2")[1] == ()
    assert "assumed" in engine("trtllm")[1][0]


def test_unknown_architectures_borrow_from_a_relative_and_say_so():
    figures, notes = kernels("Andromeda")
    assert 0 < figures.memory <= 1
    assert "Andromeda" in notes[0]


def of_engine(layout, name="llama-3.1-8b", formats="bf16", **changes):
    on = replace(machine(), host=1.0)
    figures = replace(on, engine=msgspec.structs.replace(on.engine, **changes))
    return step_cost(model(name), figures, layout, quantization(formats))


def test_a_host_that_prepares_the_next_step_costs_nothing_while_the_device_is_busy():
    busy = {"sequence_s": 1e-5, "step_s": 0.0}
    serial, hidden = (of_engine(Layout(tp=8), overlap=overlap, **busy) for overlap in (False, True))
    assert hidden.decode_seconds(1.0, 1000.0) < serial.decode_seconds(1.0, 1000.0)
    slow = of_engine(Layout(tp=8), overlap=True, sequence_s=1e-3)
    assert float(slow.linear_seconds(64.0, 0.0, 0.0)) == pytest.approx(64e-3 + slow.step_s)
    assert StepTable(slow).plain(64) == pytest.approx(float(slow.linear_seconds(64.0, 0.0, 0.0)))


def test_every_micro_batch_of_a_pipeline_costs_the_host_a_step_of_its_own():
    plain, slow = (of_engine(Layout(pp=4), stage_s=seconds, overlap=False) for seconds in (0.0, 1e-3))
    assert slow.decode_seconds(8.0, 100.0) - plain.decode_seconds(8.0, 100.0) == pytest.approx(4e-3)
    alone = [of_engine(Layout(), stage_s=seconds).decode_seconds(8.0, 100.0) for seconds in (0.0, 1e-3)]
    assert alone[0] == alone[1]


def test_kernels_over_padded_blocks_read_experts_that_no_token_wants():
    lean, padded = (of_engine(Layout(), "qwen3-30b-a3b", expert_floor=share) for share in (0.0, 1.0))
    assert padded.decode_seconds(1.0, 100.0) > 2 * lean.decode_seconds(1.0, 100.0)
    assert padded.decode_seconds(4096.0, 100.0) == pytest.approx(lean.decode_seconds(4096.0, 100.0), rel=1e-3)


def test_feed_forward_layers_alone_in_fp8_leave_attention_as_large_as_it_was():
    sizes = [
        replica_shapes(model("llama-3.1-8b"), Layout(), quantization(name)).weight_bytes
        for name in ("fp8", "fp8-ffn", "bf16")
    ]
    attention = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096)
    assert sizes[1] - sizes[0] == pytest.approx(attention)
    assert sizes[1] < sizes[2]

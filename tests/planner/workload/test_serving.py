import numpy as np
import pytest

from shardwright.planner.errors import InputError
from shardwright.planner.workload.serving import LengthBin, Load, ServingJob, Targets
from shardwright.planner.workload.serving_layout import Layout, LayoutConstraints, Speculation, quantization


def test_a_load_needs_a_rate_or_a_concurrency_and_not_both():
    with pytest.raises(InputError, match="either a rate or a concurrency"):
        Load(isl=10, osl=10)
    with pytest.raises(InputError, match="either a rate or a concurrency"):
        Load(isl=10, osl=10, rate_per_s=1.0, concurrency=2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"isl": 0, "osl": 1, "rate_per_s": 1.0}, r"lengths\[0\].isl"),
        ({"isl": 1, "osl": -4, "rate_per_s": 1.0}, r"lengths\[0\].osl"),
        ({"isl": 1, "osl": 1, "rate_per_s": float("nan")}, "rate_per_s"),
        ({"isl": 1, "osl": 1, "rate_per_s": -1.0}, "rate_per_s"),
        ({"isl": 1, "osl": 1, "concurrency": 0}, "concurrency"),
        ({"isl": 1, "osl": 1, "concurrency": 1, "spread": 1.0}, "spread"),
        ({"isl": 1, "osl": 1, "concurrency": 1, "cached": -0.1}, "cached"),
    ],
)
def test_absurd_loads_are_refused_with_the_field(fields, words):
    with pytest.raises(InputError, match=words):
        Load(**fields)


def test_a_sampled_load_has_its_lengths_and_rate():
    load = Load(lengths=(LengthBin(isl=100, osl=10, weight=3), LengthBin(isl=900, osl=50)), rate_per_s=20.0, cached=0.5)
    trace = load.sample(4000)
    assert set(trace.prompt_tokens.tolist()) == {100, 900}
    assert trace.prompt_tokens.mean() == pytest.approx(load.mean_isl, rel=0.1)
    assert trace.rate_per_s == pytest.approx(20.0, rel=0.1)
    assert (trace.cached_tokens == trace.prompt_tokens // 2).all()
    assert (np.diff(trace.arrival_s) >= 0).all()


def test_the_same_seed_gives_the_same_trace():
    load = Load(isl=100, osl=10, rate_per_s=3.0, spread=0.3, seed=7)
    assert (load.sample(50).arrival_s == load.sample(50).arrival_s).all()


def test_targets_must_be_positive_and_the_percentile_a_percentage():
    with pytest.raises(InputError, match="ttft_s"):
        Targets(ttft_s=0.0)
    with pytest.raises(InputError, match="percentile"):
        Targets(percentile=100.0)
    assert Targets(tpot_s=0.1).limits() == {"tpot": 0.1}


def test_the_objective_follows_the_load_unless_given():
    assert ServingJob(load=Load(isl=1, osl=1, rate_per_s=1.0)).goal == "gpus"
    assert ServingJob(load=Load(isl=1, osl=1, concurrency=1)).goal == "throughput"
    assert ServingJob(load=Load(isl=1, osl=1, concurrency=1), objective="cost").goal == "cost"


def test_expert_degrees_must_fill_the_ranks_of_a_stage():
    assert Layout(tp=2, attn_dp=4, ep=8, pp=2).devices == 16
    with pytest.raises(InputError, match="ep × moe_tp"):
        Layout(tp=2, attn_dp=4, ep=4)
    with pytest.raises(InputError, match=r"layout\.tp"):
        Layout(tp=0)


def test_layouts_name_the_degrees_that_matter():
    assert Layout().label() == "tp1"
    assert Layout(tp=8, moe_tp=8).label() == "tp8"
    assert Layout(attn_dp=8, ep=8).label() == "dp8 ep8"
    assert Layout(tp=4, pp=2, ep=2, moe_tp=2).label() == "tp4 pp2 ep2 etp2"


def test_narrow_formats_take_fewer_bytes():
    sizes = [quantization(name).expert_bytes for name in ("bf16", "fp8", "nvfp4", "mxfp4")]
    assert sizes == sorted(sizes, reverse=True)
    assert quantization("fp8+kv8").cache_bytes == 1
    with pytest.raises(InputError, match="nvfp4"):
        quantization("fp3")


def test_speculation_yields_what_its_acceptance_allows():
    assert Speculation(draft_tokens=1, acceptance=0.5).tokens_per_step == 1.5
    assert Speculation(draft_tokens=3, acceptance=1.0).tokens_per_step == 4
    assert Speculation(draft_tokens=3, acceptance=0.0).tokens_per_step == 1
    with pytest.raises(InputError, match="acceptance"):
        Speculation(acceptance=1.1)


def test_constraints_must_be_counts():
    with pytest.raises(InputError, match=r"constraints\.tp"):
        LayoutConstraints(tp=(0,))


@pytest.mark.parametrize("imbalance", [0.9, 1001, float("nan")])
def test_expert_imbalance_is_a_ratio_of_at_least_one(imbalance):
    with pytest.raises(InputError, match="expert_imbalance"):
        ServingJob(load=Load(isl=1, osl=1, concurrency=1), expert_imbalance=imbalance)

import msgspec
import numpy as np
import pytest

from shardwright import planner
from shardwright.models import TransformerShape, model, transformer
from shardwright.planner.errors import Infeasible, InputError
from shardwright.planner.plan.io import dump, parse
from shardwright.planner.serving.deployments import PoolOf, Proposal, deployment
from shardwright.planner.serving.modes import shared_factors
from shardwright.planner.serving.planning import estimate_serving, load_of_trace, plan_serving
from shardwright.planner.serving.problem import problem_of
from shardwright.planner.serving.replica import Bucket, replica_rates, replica_throughput
from shardwright.planner.serving.simulation import simulate
from shardwright.planner.workload.serving import Load, ServingJob, Targets, Trace
from shardwright.planner.workload.serving_layout import Layout, LayoutConstraints, Speculation
from shardwright.topologies import cluster, parse_topology

SMALL = transformer(
    TransformerShape(
        layers=16, hidden=2048, heads=16, kv_heads=8, ffn=8192, vocab=64000, gated=True, norm="rms", max_positions=32768
    )
)
ONE_NODE = cluster("hgx-h100")
RATE = Load(isl=1000, osl=100, rate_per_s=8.0)
LOOP = Load(isl=1000, osl=100, concurrency=32)
TARGETS = Targets(ttft_s=0.5, tpot_s=0.03, percentile=95)


def job(load=RATE, targets=TARGETS, **more):
    return ServingJob(load=load, targets=targets, **more)


def used(plan):
    return [device for pool in plan.pools for worker in pool.devices for device in worker]


@pytest.mark.parametrize("load", [RATE, LOOP], ids=["rate", "concurrency"])
@pytest.mark.parametrize("mode", ["auto", "aggregated", "disaggregated"])
def test_every_plan_meets_its_targets_on_devices_of_its_own(load, mode):
    plan = plan_serving(SMALL, ONE_NODE, job(load, mode=mode))
    assert plan.targets_met
    assert plan.prediction.ttft.at_percentile_s <= 0.5
    assert plan.prediction.tpot.at_percentile_s <= 0.03
    devices = used(plan)
    assert len(devices) == len(set(devices)) == plan.devices_used
    assert max(devices) < ONE_NODE.n_devices
    assert plan.devices_used + plan.devices_idle == 8
    for pool in plan.pools:
        assert all(len(worker) == pool.layout.devices for worker in pool.devices)
        assert sum(pool.memory.values()) <= pool.capacity_bytes
    phases = {pool.phase for pool in plan.pools}
    assert mode == "auto" or (phases == {"aggregated"}) == (mode == "aggregated")


@pytest.mark.parametrize("objective", ["throughput", "gpus", "cost", "latency", "energy"])
@pytest.mark.parametrize("load", [RATE, LOOP], ids=["rate", "concurrency"])
def test_every_objective_has_a_bound_that_no_plan_beats(load, objective):
    plan = plan_serving(SMALL, ONE_NODE, job(load, objective=objective))
    best = plan.optimality
    assert best.sense == ("max" if objective == "throughput" else "min")
    assert best.bound >= best.value if best.sense == "max" else best.bound <= best.value
    assert best.gap >= 0


def test_the_same_job_gives_the_same_bytes_and_reads_back():
    first, second = (dump(plan_serving(SMALL, ONE_NODE, job())) for _ in range(2))
    assert first == second
    assert dump(parse(first, "plan")) == first


def test_fewest_devices_are_no_more_than_any_one_layout_needs():
    plan = plan_serving(SMALL, ONE_NODE, job())
    for tp in (1, 2, 4):
        try:
            other = plan_serving(
                SMALL, ONE_NODE, job(mode="aggregated", constraints=LayoutConstraints(tp=(tp,), pp=(1,)))
            )
        except Infeasible:
            continue
        assert plan.devices_used <= other.devices_used


def test_a_higher_rate_never_needs_fewer_devices():
    counts = [
        plan_serving(SMALL, ONE_NODE, job(Load(isl=1000, osl=100, rate_per_s=rate))).devices_used
        for rate in (1.0, 20.0, 60.0)
    ]
    assert counts == sorted(counts)


def test_a_mode_that_cannot_carry_a_load_says_that_a_lower_one_may_be():
    load = Load(isl=1000, osl=100, rate_per_s=5000.0)
    with pytest.raises(Infeasible, match="in mode shared; the nearest change is a lower load: one request at a time"):
        plan_serving(SMALL, ONE_NODE, job(load, mode="shared"))


def test_targets_that_cannot_be_met_name_the_nearest():
    with pytest.raises(Infeasible, match=r"nearest attainable.* tpot .* ms with") as caught:
        plan_serving(SMALL, ONE_NODE, job(targets=Targets(tpot_s=1e-4)))
    assert "\n" not in str(caught.value)
    with pytest.raises(Infeasible, match=r"nearest attainable is tpot"):
        plan_serving(SMALL, ONE_NODE, job(LOOP, Targets(tpot_s=1e-4)))


@pytest.mark.parametrize(("isl", "osl"), [(500, 100), (2000, 300)])
def test_the_highest_rate_found_lasts_much_longer_than_the_run_it_was_found_in(isl, osl):
    targets = Targets(ttft_s=1.0, tpot_s=0.05, percentile=90)
    work = ServingJob(load=Load(isl=isl, osl=osl, rate_per_s=1.0), targets=targets, objective="throughput")
    plan = plan_serving(SMALL, ONE_NODE, work)
    load = Load(isl=isl, osl=osl, rate_per_s=0.97 * plan.optimality.value, seed=5)
    problem = problem_of(SMALL, ONE_NODE, work, None)
    kinds = {each.layout: each for each in problem.types}
    pools = tuple(PoolOf(kinds[pool.layout], pool.phase, pool.workers, pool.requests_per_s) for pool in plan.pools)
    whole = deployment(Proposal(pools), problem.setting, ONE_NODE)
    assert simulate(whole, load.sample(4 * plan.prediction.requests)).meets(targets)


def test_no_loop_is_called_infeasible_that_some_layout_serves():
    tight = job(Load(isl=2000, osl=300, concurrency=200), Targets(ttft_s=2.0, tpot_s=0.05), quantization="fp8")
    large, nodes = model("llama-3.1-70b"), cluster("dgx-h100:6")
    plain = estimate_serving(large, nodes, tight, [("aggregated", Layout(tp=2), 24)])
    assert plain.targets_met
    plan = plan_serving(large, nodes, tight)
    assert plan.targets_met
    assert plan.prediction.ttft.at_percentile_s <= 2.0


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_no_rate_is_called_infeasible_that_some_deployment_carries(objective, monkeypatch):
    best = plan_serving(SMALL, ONE_NODE, job(objective=objective)).optimality
    monkeypatch.setattr("shardwright.planner.serving.open_loop._equal_workers", lambda problem, rate: [])
    plan = plan_serving(SMALL, ONE_NODE, job(objective=objective))
    assert plan.targets_met
    assert plan.optimality.bound <= best.value * 1.01
    assert plan.optimality.value >= best.value * 0.99


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_pools_that_are_asked_for_are_planned_whatever_the_objective(objective):
    plan = plan_serving(SMALL, ONE_NODE, job(objective=objective, mode="disaggregated"))
    assert {pool.phase for pool in plan.pools} == {"prefill", "decode"}
    assert plan.targets_met


def test_a_rate_no_cluster_of_this_size_serves_names_the_highest():
    with pytest.raises(Infeasible, match=r"nearest attainable rate is [\d.e+]+ requests/s"):
        plan_serving(SMALL, ONE_NODE, job(Load(isl=1000, osl=100, rate_per_s=1e5)))


def test_a_model_that_does_not_fit_says_how_much_is_missing():
    with pytest.raises(Infeasible, match=r"GB of bf16 weights .* do not fit"):
        plan_serving(model("llama-3.1-405b"), ONE_NODE, job())


def test_prompts_beyond_the_context_are_refused():
    with pytest.raises(InputError, match="more than the 32768 of the context"):
        plan_serving(SMALL, ONE_NODE, job(Load(isl=40_000, osl=10, rate_per_s=1.0)))


@pytest.mark.parametrize("devices", [3, 6])
def test_no_device_idles_when_one_more_worker_carries_more(devices):
    plan = plan_serving(SMALL, ONE_NODE, job(objective="throughput", most_devices=devices))
    assert plan.devices_used == devices
    assert f"the job may use {devices} at most" in plan.idle


def test_idle_devices_are_explained():
    big = plan_serving(model("llama-3.1-70b"), ONE_NODE, job(LOOP, Targets(), mode="aggregated", most_devices=7))
    assert big.devices_idle == 8 - big.devices_used
    assert big.idle


def test_a_lost_node_is_reported_and_workers_spread_over_nodes():
    two = cluster("hgx-h100:2")
    plan = plan_serving(
        SMALL, two, job(Load(isl=1000, osl=100, rate_per_s=30.0), mode="aggregated", objective="throughput")
    )
    assert plan.node_loss is not None
    assert plan.node_loss.workers_lost < sum(pool.workers for pool in plan.pools)
    alone = plan_serving(SMALL, ONE_NODE, job())
    assert not alone.node_loss.targets_met


def test_hours_need_fewer_devices_when_less_is_asked():
    hours = (("day", 30.0), ("night", 2.0), ("off", 0.0))
    plan = plan_serving(SMALL, ONE_NODE, job(Load(isl=1000, osl=100, rate_per_s=30.0)), hours=hours)
    day, night, off = plan.hours
    assert day.devices >= night.devices > off.devices == 0
    assert all(hour.targets_met for hour in plan.hours)
    assert all(len(hour.workers) == len(plan.pools) for hour in plan.hours)


def test_phases_that_share_their_devices_count_them_once_an_hour():
    hours = (("day", 4.0), ("off", 0.0))
    load = Load(isl=1000, osl=100, rate_per_s=4.0)
    plan = plan_serving(SMALL, ONE_NODE, job(load, Targets(tpot_s=0.1), mode="shared"), hours=hours)
    assert [hour.devices for hour in plan.hours] == [plan.devices_used, 0]


def test_a_trace_is_replayed_request_by_request():
    rng = np.random.default_rng(1)
    trace = Trace(
        np.cumsum(rng.exponential(0.1, 400)),
        rng.integers(100, 2000, 400),
        rng.integers(5, 200, 400),
        np.zeros(400, dtype=np.int64),
        "sample",
    )
    load = load_of_trace(trace)
    plan = plan_serving(SMALL, ONE_NODE, job(load), trace=trace)
    assert plan.prediction.requests == 400
    assert plan.trace == "sample"
    assert plan.targets_met


def test_a_burst_without_a_rate_needs_a_concurrency():
    burst = Trace(np.zeros(5), np.full(5, 10), np.full(5, 10), np.zeros(5, dtype=np.int64), "burst")
    with pytest.raises(InputError, match="arrive at once"):
        load_of_trace(burst)
    assert load_of_trace(burst, 4).concurrency == 4


@pytest.mark.parametrize("mode", ["shared", "afd"])
def test_further_modes_meet_their_targets_or_say_why_not(mode):
    graph = model("qwen3-30b-a3b")
    plan = plan_serving(graph, ONE_NODE, job(LOOP, Targets(tpot_s=0.1, percentile=90), mode=mode))
    assert plan.mode == mode
    assert plan.targets_met
    assert plan.devices_used <= 8


@pytest.mark.parametrize("mode", ["shared", "afd"])
@pytest.mark.parametrize("objective", ["throughput", "gpus"])
def test_further_modes_answer_every_load_within_their_bound(mode, objective):
    graph = model("qwen3-30b-a3b")
    load = Load(isl=1000, osl=100, rate_per_s=4.0)
    plan = plan_serving(graph, ONE_NODE, job(load, Targets(tpot_s=0.1, percentile=90), mode=mode, objective=objective))
    assert plan.targets_met
    best = plan.optimality
    if objective == "throughput":
        assert plan.prediction.requests_per_s > 4.0
        assert best.bound >= best.value >= 4.0
    else:
        assert plan.devices_used == best.value >= best.bound
        assert plan.devices_used < 8


def test_less_of_a_device_is_slower_for_both_phases():
    shares = [shared_factors(share) for share in (0.2, 0.5, 0.8)]
    assert [prefill for prefill, _ in shares] == sorted((prefill for prefill, _ in shares), reverse=True)
    assert [decode for _, decode in shares] == sorted(decode for _, decode in shares)


def test_estimates_report_missed_targets_instead_of_hiding_them():
    tight = job(LOOP, Targets(tpot_s=1e-4))
    plan = estimate_serving(SMALL, ONE_NODE, tight, [("aggregated", Layout(tp=2), 4)])
    assert not plan.targets_met
    assert plan.optimality.candidates == 1
    split = estimate_serving(SMALL, ONE_NODE, job(), [("prefill", Layout(tp=1), 1), ("decode", Layout(tp=2), 2)])
    assert split.transfer is not None
    assert split.transfer.bytes_per_token == 16 * 2 * 8 * 128 * 2


def test_estimates_refuse_what_the_cluster_or_model_cannot_hold():
    with pytest.raises(InputError, match="need 16 devices but"):
        estimate_serving(SMALL, ONE_NODE, job(), [("aggregated", Layout(tp=4), 4)])
    with pytest.raises(InputError, match="tp must divide"):
        estimate_serving(SMALL, ONE_NODE, job(), [("aggregated", Layout(tp=3), 1)])
    with pytest.raises(Infeasible, match="do not fit"):
        estimate_serving(model("llama-3.1-70b"), ONE_NODE, job(), [("aggregated", Layout(tp=1), 1)])


def test_estimates_agree_with_the_search_on_its_own_plan():
    plan = plan_serving(SMALL, ONE_NODE, job(mode="aggregated"))
    layouts = [(pool.phase, pool.layout, pool.workers) for pool in plan.pools]
    again = estimate_serving(SMALL, ONE_NODE, job(mode="aggregated"), layouts)
    assert again.prediction.tpot == plan.prediction.tpot


def test_several_kinds_of_device_serve_together():
    document = {
        "schema": "shardwright.topology/1",
        "name": "mixed",
        "nodes": [
            {**cluster("hgx-h100").document["nodes"][0], "name": "h100"},
            {**cluster("hgx-a100").document["nodes"][0], "name": "a100"},
        ],
        "networks": cluster("hgx-h100:2").document["networks"],
    }
    mixed = parse_topology(document)
    plan = plan_serving(SMALL, mixed, job(Load(isl=1000, osl=100, rate_per_s=10.0), objective="throughput"))
    assert {pool.accelerator for pool in plan.pools} == {"H100-SXM5-80GB", "A100-SXM4-80GB"}
    kinds = {
        int(mixed.device_accelerator[device]) for pool in plan.pools for worker in pool.devices for device in worker
    }
    assert len(kinds) == 2


def test_speculation_and_formats_reach_the_plan():
    plan = plan_serving(
        SMALL, ONE_NODE, job(quantization="fp8+kv8", speculation=Speculation(draft_tokens=1, acceptance=0.7))
    )
    plain = plan_serving(SMALL, ONE_NODE, job())
    assert plan.quantization.cache == "fp8"
    assert plan.speculation.draft_tokens == 1
    assert plan.pools[0].memory["weights"] < plain.pools[0].memory["weights"]


def test_one_copy_carries_less_under_tighter_targets():
    bucket = Bucket(isl=1000, osl=100)
    loose, tight = (
        replica_throughput(SMALL, ONE_NODE, Layout(tp=2), bucket, job(targets=targets))
        for targets in (Targets(tpot_s=0.05), Targets(tpot_s=0.008))
    )
    assert loose > tight
    exact = replica_throughput(SMALL, ONE_NODE, Layout(tp=2), bucket, job(), exact=True)
    assert 0 < exact <= replica_throughput(SMALL, ONE_NODE, Layout(tp=2), bucket, job(targets=Targets())) * 1.3
    assert replica_throughput(model("llama-3.1-70b"), ONE_NODE, Layout(), bucket, job()) == 0


def test_rates_of_many_buckets_are_those_of_each_alone():
    buckets = (Bucket(200, 20), Bucket(1000, 100), Bucket(8000, 400))
    together = replica_rates(SMALL, ONE_NODE, Layout(tp=2), buckets, job())
    alone = [replica_throughput(SMALL, ONE_NODE, Layout(tp=2), bucket, job()) for bucket in buckets]
    assert together == pytest.approx(alone)
    assert list(together) == sorted(together, reverse=True)
    prefill = replica_rates(SMALL, ONE_NODE, Layout(tp=2), buckets, job(), phase="prefill")
    decode = replica_rates(SMALL, ONE_NODE, Layout(tp=2), buckets, job(), phase="decode")
    assert (np.minimum(prefill, decode) >= together).all()


def test_a_copy_carries_no_request_its_model_cannot_read():
    with pytest.raises(InputError, match="40000 prompt"):
        replica_rates(SMALL, ONE_NODE, Layout(), (Bucket(10, 10), Bucket(40_000, 10)), job())
    with pytest.raises(InputError, match="phase must be one of"):
        replica_rates(SMALL, ONE_NODE, Layout(), (Bucket(10, 10),), job(), phase="both")


def test_the_public_functions_take_names_and_give_plans_that_validate():
    asked = planner.ServingJob(load=planner.Load(isl=500, osl=50, rate_per_s=4.0), targets=planner.Targets(ttft_s=1.0))
    plan = planner.plan_serving("llama-3.1-8b", "dgx-h100:1", asked)
    assert planner.validate_plan(plan) == []
    given = planner.estimate_serving("llama-3.1-8b", "dgx-h100:1", asked, [("aggregated", planner.Layout(tp=2), 1)])
    assert given.pools[0].layout == planner.Layout(tp=2)
    assert planner.validate_plan(given) == []


def test_uneven_experts_slow_expert_parallelism_and_are_recorded():
    graph, loop = model("qwen3-30b-a3b"), Load(isl=500, osl=100, concurrency=256)
    layouts = [("aggregated", Layout(attn_dp=8, ep=8), 1)]
    even, uneven = (
        estimate_serving(graph, ONE_NODE, ServingJob(load=loop, expert_imbalance=ratio), layouts)
        for ratio in (1.0, 3.0)
    )
    assert uneven.prediction.tpot.mean_s > even.prediction.tpot.mean_s
    assert any("3 times the mean load" in note for note in uneven.assumptions)


@pytest.mark.parametrize("devices", [12, 20, 28, 40, 48])
def test_no_device_idles_unless_no_plan_does_better_with_it(devices):
    large, nodes = model("llama-3.1-405b"), cluster("hgx-h200:6")
    asked = ServingJob(
        load=Load(isl=2000, osl=200, rate_per_s=0.1), objective="throughput", quantization="fp8", mode="aggregated",
        most_devices=devices, targets=Targets(tpot_s=0.08, percentile=90), constraints=LayoutConstraints(pp=(1, 3)),
    )  # fmt: skip
    plan = plan_serving(large, nodes, asked)
    rates = {pool.layout.devices: pool.requests_per_s for pool in plan.pools}
    used = sum(pool.workers * pool.layout.devices for pool in plan.pools)
    assert used == plan.devices_used <= devices
    assert plan.devices_idle == 48 - used
    assert f"{plan.devices_idle} devices" in plan.idle or plan.devices_idle == 0
    assert devices - used < min(rates), "one more worker of a kind in the plan would fit"


def test_plans_refuse_unknown_fields():
    text = dump(plan_serving(SMALL, ONE_NODE, job()))
    document = msgspec.json.decode(text)
    document["surprise"] = 1
    with pytest.raises(Exception, match="surprise"):
        parse(msgspec.json.encode(document).decode(), "plan")

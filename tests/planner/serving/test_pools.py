import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.planner.serving.pools import Option, counted, fewest, most_rate

OPTION = st.builds(
    Option,
    phase=st.sampled_from(["aggregated", "prefill", "decode"]),
    kind=st.just(0),
    devices=st.integers(1, 6),
    rate=st.sampled_from([0.5, 1.0, 1.7, 2.2, 3.1, 4.0]),
    cost=st.just(0.0),
)


def every_count(options, supply):
    ranges = [range(supply[option.kind] // option.devices + 1) for option in options]
    for workers in itertools.product(*ranges):
        used = [0] * len(supply)
        for option, number in zip(options, workers, strict=True):
            used[option.kind] += option.devices * number
        if all(have >= need for have, need in zip(supply, used, strict=True)):
            yield counted(options, workers)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(options=st.lists(OPTION, min_size=1, max_size=4), supply=st.integers(1, 12))
def test_counts_equal_brute_force(options, supply):
    best = max(each.rate for each in every_count(options, [supply]))
    found = most_rate(options, [supply])
    assert found.rate == pytest.approx(best)
    assert found.devices == min(each.devices for each in every_count(options, [supply]) if each.rate >= best - 1e-9)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    options=st.lists(OPTION, min_size=1, max_size=4), supply=st.integers(1, 12), rate=st.sampled_from([1.0, 3.5, 9.0])
)
def test_fewest_devices_equal_brute_force(options, supply, rate):
    enough = [each.devices for each in every_count(options, [supply]) if each.rate >= rate - 1e-9]
    found = fewest(options, [supply], rate)
    assert (found is None) == (not enough)
    if found is not None:
        assert found.devices == min(enough)
        assert found.rate >= rate - 1e-9


def test_two_kinds_of_device_are_solved_together():
    options = [
        Option("prefill", 0, 2, 3.0, cost=4.0),
        Option("decode", 1, 1, 1.0, cost=1.0),
        Option("decode", 0, 2, 1.5, cost=4.0),
        Option("aggregated", 1, 2, 0.8, cost=2.0),
    ]
    supply = [4, 3]
    best = max(every_count(options, supply), key=lambda each: each.rate)
    assert most_rate(options, supply).rate == pytest.approx(best.rate)
    cheapest = min((each for each in every_count(options, supply) if each.rate >= 2.0), key=lambda each: each.cost)
    assert fewest(options, supply, 2.0).cost == pytest.approx(cheapest.cost)


@pytest.mark.parametrize("devices", [12, 20, 28, 40, 48])
def test_mixed_workers_leave_no_device_idle_when_a_smaller_one_helps(devices):
    options = [
        Option("aggregated", 0, 8, 10.0),
        Option("aggregated", 0, 4, 4.2),
        Option("prefill", 0, 4, 9.0),
        Option("decode", 0, 8, 11.0),
    ]
    assert most_rate(options, [devices]).devices == devices
    only_eights = most_rate(options[:1], [devices])
    assert only_eights.devices == devices // 8 * 8


def test_nothing_is_carried_by_half_a_split():
    assert most_rate([Option("prefill", 0, 1, 5.0)], [8]).rate == 0
    assert fewest([Option("decode", 0, 1, 5.0)], [8], 1.0) is None


def test_a_large_cluster_is_split_as_exactly_as_a_small_one():
    options = [Option("prefill", 0, 3, 5.0), Option("decode", 0, 7, 9.0)]
    for supply in (299, 600, 1001):
        splits = (min(5.0 * number, 9.0 * ((supply - 3 * number) // 7)) for number in range(supply // 3 + 1))
        assert most_rate(options, [supply]).rate == max(splits)

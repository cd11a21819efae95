"""The shipped constants: where they come from, what they may be, and how well they meet measurements."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from benchmarks.collective_rows import read_rows
from benchmarks.fit_collectives import Topologies, judged, non_negative, relative_fit
from shardwright.topologies import TopologyError, accelerator, list_accelerators
from shardwright.topologies.coefficients import NetworkCoefficients, OpCoefficients, default_coefficients
from tests.reference import shared_file


def test_the_constants_say_where_they_come_from():
    provenance = default_coefficients().provenance
    assert set(provenance) == {"command", "date", "source"}
    assert "AIConfigurator" in provenance["source"]


def test_no_link_is_faster_than_its_rate_and_no_launch_is_free():
    coefficients = default_coefficients()
    for device, algorithms in coefficients.devices.items():
        for algorithm, fit in algorithms.items():
            assert all(0 < each <= 1 for each in fit.efficiency), (device, algorithm)
            assert fit.floor_s < 1e-4 and fit.step_s < 1e-5 and fit.ramp < 0.1
    assert all(network.efficiency <= 1 for network in coefficients.networks.values())


@pytest.mark.parametrize("algorithm", ["all_reduce", "all_to_all", "send_recv", "one_shot", "moe_combine"])
def test_every_accelerator_finds_constants(algorithm):
    coefficients = default_coefficients()
    for name in list_accelerators():
        fit, measured_on = coefficients.of(accelerator(name), None, algorithm)
        assert isinstance(fit, OpCoefficients)
        assert measured_on in coefficients.devices
    with pytest.raises(TopologyError, match="no coefficients for 'shuffle'"):
        coefficients.of(accelerator("h100"), None, "shuffle")


def test_a_send_stands_in_by_the_ring_of_the_same_device():
    coefficients = default_coefficients()
    assert "send_recv" not in coefficients.devices["A100-SXM4-80GB"]
    fit, measured_on = coefficients.of(accelerator("a100"), None, "send_recv")
    assert measured_on == "A100-SXM4-80GB"
    assert fit == coefficients.devices["A100-SXM4-80GB"]["all_gather"]


@pytest.mark.parametrize(
    "changes", [{"floor_s": -1.0}, {"ramp": float("nan")}, {"efficiency": ()}, {"efficiency": (0.0,)}]
)
def test_constants_that_cannot_be_are_refused(changes):
    with pytest.raises(TopologyError):
        OpCoefficients(**({"floor_s": 1e-6, "step_s": 1e-6, "efficiency": (0.9,)} | changes))


def test_a_nic_cannot_pass_more_than_its_rate():
    with pytest.raises(TopologyError):
        NetworkCoefficients(step_s=1e-6, message_s=0.0, efficiency=1.2)


def test_the_fit_finds_the_constants_that_made_the_data():
    rng = np.random.default_rng(1)
    matrix = rng.uniform(0.1, 1, (60, 3))
    truth = np.array([2.0, 0.0, 5.0])
    assert non_negative(matrix, matrix @ truth, np.ones(60)) == pytest.approx(truth, abs=1e-6)
    times = matrix @ truth
    times[:5] *= 20
    assert relative_fit(matrix, times, np.zeros(3)) == pytest.approx(truth, abs=0.2)


def test_predictions_stay_as_close_to_measurements_as_the_committed_table():
    rows, skipped = read_rows(shared_file("measured/collectives.csv"))
    tables = judged(rows, Topologies(default_coefficients()).predicted(rows))
    assert len(rows) > 5 * sum(skipped.values())
    assert tables["total"][0]["median_ape"] < 0.06
    for entry in tables["by_op"]:
        rings = ("all_gather", "reduce_scatter", "all_reduce")
        if entry["where"] == "one domain" and entry["op"] in rings and entry["unseen"]:
            assert entry["median_ape"] < 0.10, entry


def test_constants_survive_json():
    coefficients = default_coefficients()
    assert msgspec.json.decode(msgspec.json.encode(coefficients), type=type(coefficients)) == coefficients

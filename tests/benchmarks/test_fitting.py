from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.coefficient_space import PARAMETERS, affects, read_value, skeleton, written
from benchmarks.fitting import Floats, Parameter, Settings, fit

WORK = np.linspace(1.0, 20.0, 30)
MOVED = np.linspace(5.0, 1.0, 30)
PLACES = (Parameter("rate", 1.0, 1.0), Parameter("hidden", 0.5, 1.0, share=True))


def model(values: Sequence[float], only: int | None, previous: Floats | None) -> Floats:
    rate, hidden = values
    return WORK / rate + MOVED * (1 - hidden)


def test_a_fit_recovers_the_coefficients_that_made_the_data() -> None:
    measured = model((2.5, 0.8), None, None)
    found = fit(PLACES, (1.0, 0.5), measured, np.ones(30), model, Settings(strength=1e-6, least_gain=1e-9))
    assert found.values == pytest.approx((2.5, 0.8), rel=0.02)
    assert found.predicted == pytest.approx(measured, rel=0.01)


def test_a_few_wild_measurements_do_not_bend_a_fit() -> None:
    measured = model((2.5, 0.8), None, None)
    measured[:3] *= 4
    found = fit(PLACES, (1.0, 0.5), measured, np.ones(30), model, Settings(strength=1e-6, least_gain=1e-9))
    assert found.values[0] == pytest.approx(2.5, rel=0.05)


def test_without_data_the_prior_stays() -> None:
    found = fit(PLACES, (3.0, 0.2), np.ones(30), np.zeros(30), model, Settings(least_gain=1e-9, iterations=30))
    assert found.values == pytest.approx((1.0, 0.5), rel=0.05)


def test_values_keep_to_their_limits() -> None:
    bounded = Parameter("fraction", 0.8, 1.0, low=0.1, high=0.9)
    assert bounded.outward(5.0) == 0.9
    assert bounded.outward(bounded.inward(0.5)) == pytest.approx(0.5)
    assert Parameter("share", 0.5, 1.0, share=True).outward(-50.0) >= 0


def test_every_fitted_place_is_in_the_skeleton_and_can_be_written() -> None:
    document = skeleton()
    values = [p.prior * 1.01 for p in PARAMETERS]
    changed = written(document, values)
    for parameter, value in zip(PARAMETERS, values, strict=True):
        assert read_value(changed, parameter.name, -1.0) == value
    assert changed != document


def test_a_place_touches_only_the_sets_it_is_part_of() -> None:
    assert affects("kernels:ampere:bf16:gemm_fraction", ("ampere", "fp16", "megatron-2021"))
    assert affects("kernels:hopper:bf16:gemm_fraction", ("hopper", "fp8", "megatron-2024"))
    assert not affects("kernels:hopper:fp8:gemm_fraction", ("hopper", "bf16", "megatron-2024"))
    assert not affects("frameworks:fsdp-2023:step_s", ("hopper", "bf16", "megatron-2024"))
    assert affects("frameworks:megatron-2024,megatron-2025:tp_overlap", ("hopper", "bf16", "megatron-2025"))


def test_a_fit_looks_at_every_coefficient_from_both_sides() -> None:
    tried: dict[int, list[float]] = {0: [], 1: []}

    def recorded(values: Sequence[float], only: int | None, previous: Floats | None) -> Floats:
        if only is not None:
            tried[only].append(values[only])
        return model(values, only, previous)

    fit(PLACES, (2.0, 0.6), model((2.0, 0.6), None, None), np.ones(30), recorded, Settings(iterations=1))
    assert min(tried[0]) < 2.0 < max(tried[0])
    assert min(tried[1]) < 0.6 < max(tried[1])

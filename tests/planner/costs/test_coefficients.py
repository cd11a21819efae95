from __future__ import annotations

import pytest

from shardwright.planner.costs.coefficients import coefficients, frameworks
from shardwright.planner.errors import InputError


def test_a_known_family_needs_no_assumption():
    chosen = coefficients("Hopper", "bf16", "megatron-2024")
    assert chosen.assumptions == ()
    assert chosen.name == "hopper/bf16/megatron-2024"


def test_an_unknown_family_says_what_it_borrowed():
    assert "default family" in coefficients("Abacus", "bf16", "megatron-2024").assumptions[0]


def test_a_dtype_nobody_measured_borrows_the_next_one():
    assert any("fp8" in note for note in coefficients("Abacus", "fp8", "megatron-2024").assumptions)


def test_an_unknown_framework_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="megatron-2024"):
        coefficients("Hopper", "bf16", "abacus")
    assert "megatron-2024" in frameworks()


@pytest.mark.parametrize("framework", frameworks())
def test_every_share_is_a_share(framework):
    chosen = coefficients("Hopper", "fp8", framework)
    for name in chosen.framework.__struct_fields__:
        if name.endswith("overlap") or name in ("allocator_fraction", "hidden_cost"):
            assert 0 <= getattr(chosen.framework, name) <= 1
    for kernels in (chosen.kernels, chosen.low_precision_kernels):
        assert 0 < kernels.gemm_fraction <= 1
        assert 0 < kernels.memory_fraction <= 1

"""Units on the command line."""

from __future__ import annotations

import pytest

from shardwright.planner.cli.common import parse_duration, parse_size
from shardwright.planner.errors import InputError


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("2 s", 2.0), ("1.5h", 5400.0), ("3us", 3e-6)])
def test_durations_carry_their_unit(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "size"), [("80GB", 80e9), ("64GiB", 64 * 2**30), ("1.5 tb", 1.5e12)])
def test_sizes_tell_decimal_from_binary(text, size):
    assert parse_size(text) == pytest.approx(size)


@pytest.mark.parametrize("text", ["5", "-5ms", "ms", "nan s", "5 parsec", ""])
def test_a_number_without_a_known_unit_is_refused(text):
    with pytest.raises(InputError, match="500ms"):
        parse_duration(text)
    with pytest.raises(InputError, match="80GB"):
        parse_size(text)

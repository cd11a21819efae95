"""Quantities may be written with units, where the field's name says what is measured."""

from __future__ import annotations

import pytest

from shardwright.topologies import TopologyError
from shardwright.topologies.units import si_quantities


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("bandwidth_bytes_per_s", "450 GB/s", 450e9),
        ("bandwidth_bytes_per_s", "200 Gb/s", 25e9),
        ("bandwidth_bytes_per_s", "450e9", 450e9),
        ("latency_s", "2 us", 2e-6),
        ("latency_s", "30ms", 30e-3),
        ("memory_bytes", "80 GiB", 80 * 2**30),
    ],
)
def test_a_quantity_with_a_unit_is_read_in_si(field, text, value):
    assert si_quantities({"nodes": [{field: text}]}) == {"nodes": [{field: pytest.approx(value)}]}


@pytest.mark.parametrize("text", ["fast", "450 GB", "1.2.3 GB/s", "GB/s", ""])
def test_a_quantity_that_cannot_be_read_is_refused_with_its_path(text):
    with pytest.raises(TopologyError, match=r"\$\.nodes\[0\]\.bandwidth_bytes_per_s"):
        si_quantities({"nodes": [{"bandwidth_bytes_per_s": text}]})


def test_text_elsewhere_and_numbers_stay_as_they_are():
    document = {"name": "450 GB/s", "bandwidth_bytes_per_s": 5, "list": ["1 GB/s"]}
    assert si_quantities(document) == document


def test_a_document_nested_too_deeply_is_refused():
    document: dict = {}
    for _ in range(50):
        document = {"nodes": [document]}
    with pytest.raises(TopologyError, match="nested deeper"):
        si_quantities(document)

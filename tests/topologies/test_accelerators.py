"""The accelerator catalog: figures in SI units with sources, names people use, refusals that help."""

from __future__ import annotations

import csv

import msgspec
import pytest

from shardwright.topologies import Accelerator, TopologyError, accelerator, list_accelerators
from tests.reference import shared_file


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("h100", "H100-SXM5-80GB"),
        ("H100", "H100-SXM5-80GB"),
        ("h100-sxm", "H100-SXM5-80GB"),
        ("H100 SXM5 80GB", "H100-SXM5-80GB"),
        ("h100_96gb", "H100-SXM5-96GB-500W"),
        ("a100-80gb", "A100-SXM4-80GB"),
        ("a100-40gb", "A100-SXM4-40GB"),
        ("gh200", "GH200-96GB"),
        ("b200", "B200-SXM-180GB"),
        ("gb200", "GB200-NVL72"),
        ("mi300x", "MI300X"),
        ("t4", "T4"),
        ("v100", "V100-SXM2-32GB"),
        ("l4", "L4"),
        ("tpuv5p", "TPU-v5p"),
        ("trn1", "Trainium1"),
    ],
)
def test_an_accelerator_answers_to_the_names_people_use(alias, name):
    assert accelerator(alias).name == name


def test_the_catalog_holds_every_family_and_every_figure_has_a_source():
    names = list_accelerators()
    assert len(names) >= 45
    for name in names:
        device = accelerator(name)
        for field in ("peak_flops", "memory_bytes", "memory_bytes_per_s", "scaleup_bytes_per_s"):
            assert device.source[field], (name, field)
        for field in ("tdp_watts", "usd_per_hour", "pcie_bytes_per_s"):
            assert (getattr(device, field) is None) == (field not in device.source), (name, field)
        assert 1e12 < max(device.peak_flops.values()) < 1e17
        assert 1e9 < device.memory_bytes < 1e12
        assert 1e11 < device.memory_bytes_per_s < 1e14
        assert 1e9 < device.scaleup_bytes_per_s < 2e12


def test_an_unknown_name_is_refused_with_the_nearest_ones():
    with pytest.raises(TopologyError, match=r"unknown accelerator 'h1000'; nearest: .*h100"):
        accelerator("h1000")


def test_an_unknown_peak_is_refused_with_the_known_ones():
    with pytest.raises(
        TopologyError, match="A100-SXM4-80GB has no known fp8 peak; known: fp32, tf32, fp16, bf16, int8"
    ):
        accelerator("a100").peak("fp8")
    assert accelerator("a100").peak("bf16") == 312e12


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["memory_bytes_per_s", "scaleup_bytes_per_s", "tdp_watts", "usd_per_hour"])
def test_a_figure_that_is_no_positive_number_is_refused(field, value):
    with pytest.raises(TopologyError, match=f"{field} must be a positive number from"):
        msgspec.structs.replace(accelerator("h100"), **{field: value})


def test_a_dtype_that_nobody_has_is_refused():
    with pytest.raises(TopologyError, match=r"peak_flops knows .*, not 'fp5'"):
        msgspec.structs.replace(accelerator("h100"), peak_flops={"fp5": 1e12})
    with pytest.raises(TopologyError, match="at least one dtype"):
        msgspec.structs.replace(accelerator("h100"), peak_flops={})


def test_the_catalog_agrees_with_the_reference_table():
    path = shared_file("measured/accelerators.csv")
    known = {"H100-SXM5-80GB", "A100-SXM4-80GB", "B200-SXM-180GB", "MI300X", "Gaudi2", "T4", "L40S", "MI250X"}
    seen = 0
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["name"] in known:
                device = accelerator(row["name"])
                assert device.peak("bf16" if row["peak_bf16_tflops"] else "fp16") == pytest.approx(
                    1e12 * float(row["peak_bf16_tflops"] or row["peak_fp16_tflops"])
                )
                assert device.memory_bytes_per_s == pytest.approx(1e9 * float(row["hbm_bw_GBps"]))
                assert device.memory_bytes == pytest.approx(1e9 * float(row["hbm_gb"]), rel=0.08)
                seen += 1
    assert seen == len(known)


def test_an_accelerator_survives_json():
    device = accelerator("mi300x")
    assert msgspec.json.decode(msgspec.json.encode(device), type=Accelerator) == device

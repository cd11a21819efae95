from __future__ import annotations

import pytest

from benchmarks.measurements.cells import UnusableError
from benchmarks.measurements.clusters import accelerator_named, cluster_of, network_of, topology_of
from tests.benchmarks.rows import row


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("A100-80GB", "A100-SXM4-80GB"),
        ("A100-40GB", "A100-SXM4-40GB"),
        ("T4 (4x g4dn.12xlarge)", "T4"),
        ("H100", "H100-SXM5-80GB"),
        ("H100 96GB (HBM2e, 500W)", "H100-SXM5-96GB-500W"),
        ("NVIDIA H200", "H200-SXM-141GB"),
        ("GB300", "GB300-NVL72"),
        ("TPUv5e", "TPU-v5e"),
        ("AMD Instinct MI300X", "MI300X"),
        ("MI250X GCD", "MI250X-GCD"),
        ("Trainium1 NeuronCore-v2 (2 per chip)", "Trainium1"),
    ],
)
def test_accelerators_go_by_many_names(words: str, name: str) -> None:
    assert accelerator_named(words).name == name


def test_an_accelerator_nobody_knows_is_a_reason() -> None:
    with pytest.raises(UnusableError, match="accelerator unknown"):
        accelerator_named("Abacus 9000")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("DGX-H100: NVLink4 900GB/s NVSwitch + 8x400Gb NDR IB", (3200, "ib")),
        ("Jean Zay: NVLink3/NVSwitch 8 GPU/node, 4x100Gb Omni-Path per node", (400, "ib")),
        ("1600Gbps RoCE node-to-node", (1600, "roce")),
        ("NVLink3 + 400Gbps/node", (400, "ib")),
        ("GB200 NVL72: NVLink5 domain 72 + CX7 400Gb/GPU", (-400, "ib")),
        ("NVLink 400GB/s per GPU in node (H800), 8x400Gb IB", (3200, "ib")),
        ("NVSWITCH Gen3 | net: Storage: 2x CX-7 IB NDR 400Gb/s, Compute: 8x CX-7 IB NDR 400Gb/s", (3200, "ib")),
        ("NVSWITCH | net: Management: 1x Ethernet 10GB/Sec", (None, "ethernet")),
        ("PCIe; AMP models 50Gb/s intra and 50Gb/s inter", (50, "ethernet")),
        ("NVLink3/NVSwitch + 4x HDR200 IB per node", (800, "ib")),
        ("", (None, "ib")),
    ],
)
def test_the_network_is_read_from_words(words: str, expected: tuple[float | None, str]) -> None:
    assert network_of(words) == expected


def test_nodes_of_a_rack_share_one_scale_up_domain() -> None:
    cluster, _ = cluster_of(row(gpu="GB200", num_gpus="256", nodes="64", interconnect="NVL72 + 400Gb/GPU"))
    topology = topology_of(cluster)
    assert cluster.domain_nodes == 16
    assert (topology.n_devices, topology.n_domains) == (256, 4)


def test_an_unstated_network_is_an_assumption() -> None:
    cluster, assumptions = cluster_of(row(gpu="H100", num_gpus="16", nodes="2", interconnect=""))
    assert cluster.node_gbit == 3200
    assert assumptions == ("network not stated: 400 Gb/s for each Hopper device",)


def test_a_network_that_only_the_sources_paper_states_is_taken_from_there() -> None:
    words = "NVLink3 NVSwitch; HDR InfiniBand across nodes"
    several = row(source="vTrain (MICRO 2024) multi-node runs", num_gpus="256", nodes="32", interconnect=words)
    cluster, assumptions = cluster_of(several)
    assert (cluster.nics, cluster.node_gbit) == (4, 800)
    assert len(assumptions) == 1
    assert cluster_of(several | {"num_gpus": "8", "nodes": "1"})[1] == ()


def test_a_single_node_needs_no_network() -> None:
    assert cluster_of(row(num_gpus="8", nodes="1", interconnect=""))[1] == ()


def test_half_a_chip_has_half_of_everything() -> None:
    cluster, _ = cluster_of(row(gpu="Trainium1 NeuronCore-v2 (2 per chip)", num_gpus="64", nodes="2"))
    whole = accelerator_named("Trainium1")
    assert topology_of(cluster).accelerators[0].memory_bytes == whole.memory_bytes // 2


@pytest.mark.parametrize("gpu", ["12x V100 + 4x T4", "A100 and H100"])
def test_mixed_accelerators_are_a_reason(gpu: str) -> None:
    with pytest.raises(UnusableError, match="several kinds"):
        cluster_of(row(gpu=gpu))

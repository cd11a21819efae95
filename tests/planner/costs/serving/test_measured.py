import builtins
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from shardwright.models import TransformerShape, transformer
from shardwright.planner.costs.serving import measured
from shardwright.planner.costs.serving.coefficients import kernels
from shardwright.planner.errors import InputError
from shardwright.planner.serving.planning import plan_serving
from shardwright.planner.workload.serving import Load, ServingJob
from shardwright.topologies import accelerator, cluster

H100 = accelerator("h100")
_INSTALLED = importlib.util.find_spec("aiconfigurator_core") if importlib.util.find_spec("pyarrow") else None
SYSTEMS = Path(_INSTALLED.origin).parent / "systems" if _INSTALLED and _INSTALLED.origin else Path("none")
SMALL = transformer(TransformerShape(layers=4, hidden=1024, heads=8, kv_heads=4, ffn=4096, vocab=32000, gated=True))


def gemm_table(slow=1.0):
    rows = [
        (dtype, m, n, k, slow * (0.004 + 2e3 * m * n * k / 5e14 + 1e3 * n * k * 2 / 3e12))
        for dtype, m, n, k in itertools.product(("bfloat16", "fp8"), (1, 16, 256, 4096), (1024, 4096), (1024, 4096))
    ]
    return dict(zip(("gemm_dtype", "m", "n", "k", "latency"), map(list, zip(*rows, strict=True)), strict=True))


def attention_table(share):
    sizes = list(itertools.product((1, 64), (1024, 16_384)))
    moved = [batch * context * 2 * 8 * 128 * 2 for batch, context in sizes]
    return {
        "kv_cache_dtype": ["bfloat16"] * 4,
        "attn_dtype": ["bfloat16"] * 4,
        "batch_size": [batch for batch, _ in sizes],
        "isl": [1] * 4,
        "step": [context - 1 for _, context in sizes],
        "num_heads": [32] * 4,
        "num_key_value_heads": [8] * 4,
        "head_dim": [128] * 4,
        "latency": [1e3 * size / (H100.memory_bytes_per_s * share) for size in moved],
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    tables = {
        "gemm/vllm/0.9.0/gemm_perf.parquet": gemm_table(slow=9.0),
        "gemm/vllm/0.24.0/gemm_perf.parquet": gemm_table(),
        "attention/vllm/0.24.0/generation_attention_perf.parquet": attention_table(0.61),
    }
    for name in tables:
        path = tmp_path / "data" / "h100_sxm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(
        measured, "read_table", lambda path: tables[str(path.relative_to(tmp_path / "data" / "h100_sxm"))]
    )
    return tmp_path


def test_measured_products_are_given_back_and_the_newest_version_is_taken(folder):
    found = measured.measured_operators(str(folder), H100, "vllm")
    assert found.versions == {"h100_sxm/gemm/vllm": "0.24.0"}
    seconds = found.product_seconds("bf16", 1024, 4096, np.array([0.0, 16.0, 256.0]))
    expected = [0.0] + [(0.004 + 2e3 * m * 1024 * 4096 / 5e14 + 1e3 * 1024 * 4096 * 2 / 3e12) / 1e3 for m in (16, 256)]
    assert seconds == pytest.approx(expected)
    assert found.product_seconds("fp4", 1024, 4096, np.ones(1)) is None


def test_shapes_between_measured_ones_move_by_their_roofline(folder):
    found = measured.measured_operators(str(folder), H100, "vllm")
    tokens = np.array([4096.0])
    small, between, large = (float(found.product_seconds("bf16", 4096, n, tokens)[0]) for n in (1024, 3000, 4096))
    assert small < between < large


def test_attention_tables_give_the_share_of_bandwidth(folder):
    figures, versions = measured.measured_kernels(str(folder), H100, "vllm", kernels("Hopper")[0])
    assert figures.decode_attention == pytest.approx(0.61)
    assert versions == {"h100_sxm/attention/vllm": "0.24.0"}


def test_rows_that_compute_or_see_a_window_do_not_lower_the_share():
    table = attention_table(0.61)
    odd = {
        "kv_cache_dtype": ["bfloat16"] * 2,
        "attn_dtype": ["bfloat16"] * 2,
        "batch_size": [64, 64],
        "isl": [1, 1],
        "step": [16_383, 65_535],
        "num_heads": [128, 32],
        "num_key_value_heads": [1, 8],
        "head_dim": [128, 128],
        "latency": [900.0, 0.1],
    }
    rows = {name: [*values, *odd[name]] for name, values in table.items()} | {"window_size": [0, 0, 0, 0, 0, 4096]}
    share = measured._read_share(rows, "bfloat16", 2, H100.memory_bytes_per_s)
    assert share == pytest.approx(0.61)


@pytest.mark.skipif(not SYSTEMS.is_dir(), reason="aiconfigurator-core and pyarrow are not installed")
@pytest.mark.parametrize("name", ["h100", "h200", "b200"])
@pytest.mark.parametrize("engine", ["vllm", "trtllm", "sglang"])
def test_the_published_tables_read_most_of_the_bandwidth(name, engine):
    device = accelerator(name)
    figures, versions = measured.measured_kernels("aiconfigurator", device, engine, kernels(device.architecture)[0])
    assert 0.75 < figures.decode_attention < 0.95
    assert 0.4 < figures.decode_attention_fp8 < 0.95
    assert 0.3 < figures.prefill_attention < 0.95
    assert versions


def test_accelerators_and_engines_without_tables_keep_the_fitted_figures(folder):
    assert measured.measured_operators(str(folder), accelerator("mi300x"), "vllm") is None
    assert measured.measured_operators(str(folder), H100, "sglang") is None


def test_plans_record_the_versions_of_the_tables_they_used(folder):
    job = ServingJob(load=Load(isl=100, osl=10, concurrency=4), operators=str(folder))
    plan = plan_serving(SMALL, cluster("hgx-h100"), job)
    assert any("h100_sxm/gemm/vllm 0.24.0" in note for note in plan.assumptions)


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no folder with data"):
        measured.measured_operators(str(tmp_path), H100, "vllm")
    monkeypatch.setattr(measured.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="aiconfigurator-core is not installed"):
        measured.measured_operators("aiconfigurator", H100, "vllm")


def test_a_missing_reader_names_the_extra(tmp_path, monkeypatch):
    importing = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"install pyarrow \(shardwright\[measured\]\)"):
        measured.read_table(tmp_path / "x.parquet")

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks.accuracy import main
from tests.benchmarks.rows import COLUMNS, row
from tests.reference import shared_file

KEYS = {"rows", "predicted", "median_ape", "mean_ape", "p90_ape", "bias", "kendall_tau", "regret"}


def table(path: Path, rows: list[dict[str, str | None]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    rows = [row(id="a"), row(id="b", mbs="4", rep_iter_time_s="13"), row(id="c", mbs="8", rep_iter_time_s="14")]
    rows += [row(id="d", mbs=""), row(id="e", source="other")]
    return table(tmp_path / "measured.csv", rows)


def test_json_has_the_promised_keys_and_fractions(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training", str(measured), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"total", "by_source", "skipped"}
    assert set(report["total"]) == KEYS
    assert set(report["by_source"]) == {"somebody's table", "other"}
    assert (report["total"]["rows"], report["total"]["predicted"]) == (5, 4)
    assert report["skipped"] == {"mbs not given": 1}
    assert 0 <= report["total"]["median_ape"] < 1
    assert -1 <= report["total"]["kendall_tau"] <= 1
    assert report["by_source"]["other"]["kendall_tau"] is None


def test_the_table_tells_every_source_and_the_reasons(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training", str(measured), "--rows"]) == 0
    printed = capsys.readouterr().out
    assert "| somebody's table | 4 | 3 |" in printed
    assert "- 1 rows: mbs not given" in printed
    assert "| a | 13.5 |" in printed


def test_rows_can_be_chosen(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training", str(measured), "--json", "--where", "source=other"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["rows"] == 1


def test_a_file_that_is_not_there_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training", "nowhere.csv"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["training", "memory"])
@pytest.mark.parametrize(
    "content", [b"", b"op,size\nall_reduce,8\n", b"gpu,num_gpus,gbs\n" + b"x" * 200_000 + b",8,8\n"]
)
def test_another_table_is_one_line_and_exit_code_2(
    command: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.csv").write_bytes(content)
    assert main([command, str(tmp_path / "other.csv")]) == 2
    printed = capsys.readouterr()
    assert "other.csv" in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_columns_in_another_order_and_further_ones_change_nothing(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(csv.DictReader(measured.read_text().splitlines()))
    with (tmp_path / "turned.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [" further ", *reversed(COLUMNS)], restval="x")
        writer.writeheader()
        writer.writerows(rows)
    assert main(["training", str(measured), "--json"]) == 0
    plain = capsys.readouterr().out
    assert main(["training", str(tmp_path / "turned.csv"), "--json"]) == 0
    assert capsys.readouterr().out == plain


def test_an_unknown_subcommand_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["divination"]) == 2
    assert "training" in capsys.readouterr().err


def test_the_tables_of_others_are_known_by_their_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for name, limit in (("sailor_gh200", 0.10), ("simumax_b200", 0.06), ("amp_t4_v100", 0.15)):
        assert main(["training", str(shared_file(f"measured/{name}.csv")), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["total"]["mean_ape"] < limit


def test_an_empty_table_has_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training", str(table(tmp_path / "empty.csv", [])), "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    assert (total["rows"], total["predicted"], total["median_ape"]) == (0, 0, None)


def test_memory_counts_what_its_kind_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("torch max_memory_allocated", "reserved", "analytic")
    rows = [row(id=kind, memory_GB_per_gpu="30", memory_kind=kind, source=kind) for kind in kinds]
    assert main(["memory", str(table(tmp_path / "memory.csv", rows))]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "weights" in line]
    predicted = [float(line.split("|")[4]) for line in lines]
    assert predicted[1] > predicted[0] > predicted[2]


def test_memory_of_a_missing_file_is_exit_code_2() -> None:
    assert main(["memory", "nowhere.csv"]) == 2


@pytest.mark.parametrize(
    ("name", "options", "median", "p90"),
    [
        ("training.csv", ["--where", "gpu=A100"], 0.08, 0.20),
        ("training.csv", [], 0.08, 0.20),
        ("vtrain_multi.csv", [], 0.08, 0.25),
        ("vtrain_single.csv", [], 0.12, 0.25),
    ],
)
def test_the_shipped_coefficients_stay_as_accurate_as_reported(
    name: str, options: list[str], median: float, p90: float, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared_file(f"measured/{name}")
    assert main(["training", str(path), "--json", *options]) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    assert total["median_ape"] < median
    assert total["p90_ape"] < p90


def test_every_row_with_memory_and_a_full_configuration_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(shared_file(f"measured/{name}.csv")) for name in ("training", "sailor_gh200", "simumax_b200")]
    assert main(["memory", *files, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["total"]["rows"] >= 90
    assert report["total"]["median_ape"] < 0.05
    allocated = [part["lowest"] for name, part in report.items() if name.endswith("(allocated)")]
    assert len(allocated) == 2
    assert min(allocated) > -0.02

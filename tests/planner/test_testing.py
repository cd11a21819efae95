"""Our own exporters hold the conformance suite; a third party's is found and held to it, and a careless one fails."""

from __future__ import annotations

import pytest

from shardwright.planner import Strategy, export_plan, list_exporters
from shardwright.planner.export import exporter
from shardwright.planner.testing import ExporterTests
from tests.serving_plans import plan_of

STRATEGIES = {
    "accelerate": Strategy(tp=2, dp_shard=8, zero=3),
    "torchtitan": Strategy(tp=2, dp_shard=8, zero=3),
}
ENGINES = {"sglang": "sglang", "tensorrt-llm": "trtllm"}
TESTS = [name for name in dir(ExporterTests) if name.startswith("test_")]
PACKAGE = """
from shardwright.planner.errors import InputError
from shardwright.planner.export import Export


class Careful:
    name = "careful"
    kinds = ("training",)
    validated_with = "careful 1.0"

    def __call__(self, context):
        plan = context.plan
        text = repr((plan.strategy, plan.job, plan.rank_to_device)) + "\\n"
        return Export(text=text, files={"plan.txt": text, "README.md": "Read plan.txt.\\n", "plan.json": "{}"})


class Careless(Careful):
    name = "careless"

    def __call__(self, context):
        return Export(text="run\\n", files={"../run.sh": "echo (", "README.md": "", "plan.json": "{}"})
"""
ENTRY_POINTS = (
    "[shardwright.exporters]\ncareful = third_party_exporter:Careful\ncareless = third_party_exporter:Careless\n"
)


def suite(exporter_name: str) -> ExporterTests:
    class Suite(ExporterTests):
        name = exporter_name
        strategy = STRATEGIES.get(exporter_name, ExporterTests.strategy)

        def plan(self):
            if "training" in exporter(exporter_name).kinds:
                return super().plan()
            return plan_of("one worker", ENGINES.get(exporter_name, "vllm"))

    return Suite()


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("name", [n for n in list_exporters() if {"training", "serving"} & set(exporter(n).kinds)])
def test_our_own_exporters_hold_the_suite(name, test):
    getattr(suite(name), test)()


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """A package with two exporters, installed as pip would leave it."""
    (tmp_path / "third_party_exporter.py").write_text(PACKAGE)
    metadata = tmp_path / "third_party_exporter-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-exporter\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)


def test_an_exporter_of_a_third_party_is_found_and_held_to_the_suite(third_party):
    assert "careful" in list_exporters()
    assert "Strategy(tp=2" in export_plan(suite("careful").plan(), "careful").text
    for test in TESTS:
        getattr(suite("careful"), test)()


@pytest.mark.parametrize("test", ["test_no_part_of", "test_the_order", "test_its_files", "test_it_writes"])
def test_a_careless_exporter_fails_the_suite(third_party, test):
    [name] = [each for each in TESTS if each.startswith(test)]
    with pytest.raises(Exception, match=r"drops|run\.sh|returned non-zero"):
        getattr(suite("careless"), name)()

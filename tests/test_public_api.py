"""The public surface changes only on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

from shardwright import models, planner, solvers, topologies
from shardwright.planner.version import VERSION


@pytest.mark.parametrize("package", [models, planner, solvers, topologies])
def test_every_public_name_exists_and_is_listed_in_order(package):
    assert package.__all__ == sorted(package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_every_public_name_of_the_planner_has_a_home():
    assert sorted(planner._HOMES) == planner.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'plan_everything'"):
        planner.plan_everything  # noqa: B018


def test_what_the_planner_offers():
    assert planner.__all__ == [
        "Constraints",
        "ExpertPhasesPlan",
        "ExpertPlan",
        "ExpertRequest",
        "FleetJob",
        "FleetPlan",
        "Infeasible",
        "InputError",
        "InvalidPlan",
        "Layout",
        "LayoutConstraints",
        "LengthBin",
        "LimitReached",
        "Load",
        "MeasuredTable",
        "Offer",
        "ServedModel",
        "ServingJob",
        "ServingPlan",
        "ShardwrightError",
        "Speculation",
        "Strategy",
        "Targets",
        "Tier",
        "TrainingJob",
        "TrainingPlan",
        "dump_plan",
        "estimate_serving",
        "estimate_training",
        "export_plan",
        "frontier_training",
        "list_exporters",
        "load_model",
        "load_plan",
        "load_topology",
        "load_trace",
        "plan_expert_phases",
        "plan_experts",
        "plan_fleet",
        "plan_serving",
        "plan_training",
        "validate_plan",
    ]


def test_the_version_is_that_of_the_installed_package():
    assert metadata.version("shardwright") == VERSION


def test_a_command_reads_its_options_without_pydantic_and_rich():
    code = (
        "import sys; from shardwright.planner.cli.main import run; "
        "run(['experts', '--routing', 'missing.json', '--gpus', '8', '--link-ratio', '2', '--objective', 'load']); "
        "print([m for m in ('pydantic', 'rich', 'importlib.metadata') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_command_line_imports_no_heavy_library():
    code = (
        "import sys; from shardwright.planner.cli.main import build; build(); "
        "print([m for m in ('numpy', 'ortools', 'pulp', 'optuna', 'networkx', 'numba', 'yaml') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_is_asked_is_checked_field_by_field_where_it_is_used(tmp_path):
    """Making a record does not check the types of its fields; planning with it does, and takes NumPy's numbers."""
    job = planner.TrainingJob(gbs=np.int64(8), sequence_length=1024)
    (tmp_path / "config.json").write_text(json.dumps(models.catalog_entry("gpt2").config))
    assert planner.plan_training(tmp_path / "config.json", "dgx-a100:1", job).job.gbs == 8
    wrong = planner.TrainingJob(gbs=8, sequence_length=1024, precision="fp7")
    with pytest.raises(planner.InputError, match=r"fp7.*precision.*must be one of fp32"):
        planner.plan_training("gpt2", "dgx-a100:1", wrong)
    with pytest.raises(planner.InputError, match=r"Expected `int`, got `float` - at `\$\.gbs`"):
        planner.plan_training("gpt2", "dgx-a100:1", planner.TrainingJob(gbs=8.5, sequence_length=1024))
    with pytest.raises(planner.InputError, match=r"TrainingJob\(gbs=64\) but got NoneType None"):
        planner.plan_training("gpt2", "dgx-a100:1", None)
    with pytest.raises(planner.InputError, match="no known type"):
        planner.plan_training(
            "gpt2", "dgx-a100:1", planner.TrainingJob(gbs=8, sequence_length=1024, framework=object())
        )

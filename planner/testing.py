"""A conformance suite for exporters of training and serving plans, to inherit in tests of one's own.

    from shardwright.planner.testing import ExporterTests

    class TestMyLauncher(ExporterTests):
        name = "mylauncher"

Every assertion is plain Python, so that any runner will do that calls the methods whose names begin with `test_`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar

import msgspec
import yaml

from .api import estimate_training
from .errors import InputError
from .export import Context, Export, export_plan, exporter, list_exporters
from .inputs import restored_model, restored_topology
from .plan.training import TrainingPlan
from .strategy import Strategy
from .workload.training import TrainingJob

if TYPE_CHECKING:
    from .plan.base import PlanBase

__all__ = ["ExporterTests"]

KINDS = ("training", "serving", "fleet", "experts")
HOSTILE = "x\"; $(touch owned) 'y\n- z: {"

# Parts of a training plan that a launcher must be told or refuse, each with another value than the usual.
STRATEGY_PARTS: dict[str, object] = {
    "offload_optimizer": "cpu",
    "offload_activations": "cpu",
    "tp_overlap": True,
    "sync_period": 8,
    "vocab_parallel": True,
}
JOB_PARTS: dict[str, object] = {
    "trained": "adapters",
    "moment_bytes": 4,
    "gradient_bytes": 2,
    "master_weight_bytes": 2,
}


class ExporterTests:
    """What every exporter must hold; set `name`, and give `plan` where the launcher takes other plans than the usual.

    The usual plan trains Qwen3 0.6B on two DGX H100 with `strategy`.
    """

    name: ClassVar[str]
    strategy: ClassVar[Strategy] = Strategy(tp=2, dp_shard=8)

    def plan(self) -> PlanBase:
        """A plan that the exporter takes."""
        job = TrainingJob(gbs=48, sequence_length=2048)
        return estimate_training("qwen3-0.6b", "dgx-h100:2", job, self.strategy)

    def test_it_is_found_by_its_name_and_says_what_it_takes(self) -> None:
        """The name is the entry point's, the kinds are kinds of plans, and a version is stated."""
        found = exporter(self.name)
        assert self.name in list_exporters()
        assert found.name == self.name
        assert found.kinds
        assert set(found.kinds) <= set(KINDS)
        assert found.validated_with

    def test_it_writes_a_folder_that_a_user_can_start_from(self) -> None:
        """A README and the plan itself are in it, and every file is text under a plain relative name."""
        made = export_plan(self.plan(), self.name)
        assert made.text
        assert {"README.md", "plan.json"} <= set(made.files)
        for name, text in made.files.items():
            path = PurePosixPath(name)
            assert not path.is_absolute(), name
            assert ".." not in path.parts, name
            assert isinstance(text, str), name
        assert all(sentence.strip() and "\n" not in sentence for sentence in made.cannot_express)

    def test_the_same_plan_gives_the_same_bytes(self) -> None:
        """Nothing of the clock, the machine or the order of a set is in the export."""
        plan = self.plan()
        assert export_plan(plan, self.name) == export_plan(plan, self.name)

    def test_its_files_are_read_by_the_shell_and_by_parsers(self) -> None:
        """Scripts, YAML and JSON are whole."""
        _read(export_plan(self.plan(), self.name))

    def test_a_hostile_model_name_is_data_or_refused(self) -> None:
        """A name with quotes, a command, a new line and YAML in it breaks no file."""
        made = self._made(msgspec.structs.replace(self.plan(), model=HOSTILE))
        if made is not None:
            _read(made)

    def test_no_part_of_a_training_plan_is_dropped(self) -> None:
        """Each part changes what is written, in words or as a note, or is refused; the plan's own file counts not."""
        plan = self.plan()
        if not isinstance(plan, TrainingPlan):
            return
        usual = _told(export_plan(plan, self.name))
        for name, value in STRATEGY_PARTS.items():
            changed = msgspec.structs.replace(plan, strategy=msgspec.structs.replace(plan.strategy, **{name: value}))
            self._told_or_refused(changed, usual, name)
        for name, value in JOB_PARTS.items():
            changed = msgspec.structs.replace(plan, job=msgspec.structs.replace(plan.job, **{name: value}))
            self._told_or_refused(changed, usual, name)

    def test_the_order_of_ranks_is_not_dropped(self) -> None:
        """The devices of a training plan the other way round give another export, or are refused."""
        plan = self.plan()
        if isinstance(plan, TrainingPlan):
            backwards = msgspec.structs.replace(plan, rank_to_device=plan.rank_to_device[::-1])
            self._told_or_refused(backwards, _told(export_plan(plan, self.name)), "rank_to_device")

    def _made(self, plan: PlanBase) -> Export | None:
        """The export without the checks of the plan itself; None where it is refused."""
        roles = {record.role for record in plan.inputs}
        model = restored_model(plan) if "model" in roles else None
        topology = restored_topology(plan) if "topology" in roles else None
        try:
            return exporter(self.name)(Context(plan=plan, model=model, topology=topology))
        except InputError:
            return None

    def _told_or_refused(self, plan: PlanBase, usual: object, part: str) -> None:
        made = self._made(plan)
        assert made is None or _told(made) != usual, f"{self.name} drops {part}: neither written nor refused"


def _told(made: Export) -> object:
    """What an export tells its launcher and its user, the plan's own file aside."""
    return made.text, made.cannot_express, {name: text for name, text in made.files.items() if name != "plan.json"}


def _read(made: Export) -> None:
    """Reads every script, YAML and JSON file with the program that will; fails where one does not."""
    shell = shutil.which("bash") or shutil.which("sh")
    for name, text in made.files.items():
        if name.endswith(".json"):
            json.loads(text)
        elif name.endswith((".yaml", ".yml")):
            list(yaml.safe_load_all(text))
        elif name.endswith(".sh") and shell:
            subprocess.run([shell, "-n"], input=text, text=True, check=True, timeout=60)  # noqa: S603 - -n runs nothing

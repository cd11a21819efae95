"""A training plan for PyTorch programs: its device mesh, its stages and its batch, out of plan.json alone.

Exports put this file beside `plan.json` as `shardwright_plan.py`, and their start scripts name the plan in
SHARDWRIGHT_PLAN. It needs PyTorch and nothing else.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")


@dataclass(frozen=True)
class Stage:
    """One virtual stage: its place in the chain, its layers, and whether it holds `embedding`, `head` or `mtp`."""

    index: int
    layers: range
    holds: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a training program must know. `document` is all of plan.json."""

    document: dict[str, Any]

    @property
    def strategy(self) -> dict[str, Any]:
        """Every degree and technique by name."""
        found: dict[str, Any] = self.document["strategy"]
        return found

    @property
    def job(self) -> dict[str, Any]:
        """Batch, sequence length, precision and optimizer by name."""
        found: dict[str, Any] = self.document["job"]
        return found

    @property
    def model(self) -> dict[str, Any]:
        """The model's configuration as it was given to the planner."""
        [found] = [record["document"] for record in self.document["inputs"] if record["role"] == "model"]
        configuration: dict[str, Any] = found
        return configuration

    @property
    def microbatches(self) -> int:
        """Micro-batches of every data-parallel rank in a step."""
        ranks: int = self.strategy["mbs"] * self.strategy["dp_replicate"] * self.strategy["dp_shard"]
        return int(self.job["gbs"]) // ranks

    @property
    def virtual_stages(self) -> int:
        """Virtual stages of the whole chain."""
        return len(self.document["stages"])

    def stages(self, pipeline_rank: int) -> list[Stage]:
        """The virtual stages of a pipeline rank, in chain order."""
        return [
            Stage(index, range(each["first_layer"], each["first_layer"] + each["layers"]), tuple(each["holds"]))
            for index, each in enumerate(self.document["stages"])
            if each["pipeline_rank"] == pipeline_rank
        ]

    def coordinates(self) -> list[tuple[int, ...]]:
        """For every rank, its place along AXES, out of the plan's own groups."""
        places = [[0] * len(AXES) for _ in self.document["rank_to_device"]]
        for position, axis in enumerate(AXES):
            for group in self.document["rank_groups"].get(axis, ()):
                for place, rank in enumerate(group):
                    places[rank][position] = place
        return [tuple(place) for place in places]

    def device_mesh(self, device_type: str) -> Any:
        """A DeviceMesh over AXES, those of degree 1 included; torch.distributed must be initialized."""
        import torch
        from torch.distributed.device_mesh import DeviceMesh

        ranks = torch.empty([self.strategy[axis] for axis in AXES], dtype=torch.int)
        for rank, place in enumerate(self.coordinates()):
            ranks[place] = rank
        return DeviceMesh(device_type, ranks, mesh_dim_names=AXES)


def load(path: str | None = None) -> Plan:
    """The plan in a file, by default the one that the start script named."""
    return Plan(json.loads(Path(path or os.environ["SHARDWRIGHT_PLAN"]).read_text(encoding="utf-8")))

"""Every number and word of an expert plan edited in turn: what still validates must be harmless."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardwright.planner import ExpertRequest, InvalidPlan, dump_plan, validate_plan
from shardwright.planner.experts.cluster import flat_cluster
from shardwright.planner.experts.planning import plan_experts
from shardwright.planner.experts.workloads import load_workloads
from shardwright.planner.plan.io import parse

HARMLESS = (
    "provenance.", "assumptions.", "alternatives.", "optimality.work", "optimality.candidates", "optimality.feasible",
    "inputs.",
)  # fmt: skip


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from leaves(value, (*path, key))
    elif document is not None:
        yield path


def edited(document: Any, path: tuple[Any, ...]) -> Any:
    out = copy.deepcopy(document)
    at = out
    for key in path[:-1]:
        at = at[key]
    value = at[path[-1]]
    at[path[-1]] = (not value) if isinstance(value, bool) else value + "x" if isinstance(value, str) else value + 1
    return out


def survivors(document: Any) -> list[str]:
    out = []
    for path in leaves(document):
        try:
            if not validate_plan(parse(json.dumps(edited(document, path)), "plan")):
                out.append(".".join(map(str, path)))
        except InvalidPlan:
            continue
    return out


@pytest.fixture
def plans(tmp_path: Path) -> dict[str, Any]:
    random = np.random.default_rng(0)
    counts, flow, ids = tmp_path / "counts.json", tmp_path / "flow.npz", tmp_path / "ids.npy"
    counts.write_text(json.dumps({"logical_count": random.geometric(0.1, (3, 8)).tolist()}))
    np.savez(flow, T=random.random((2, 8, 8)))
    best = random.integers(0, 8, (60, 3))
    np.save(ids, np.stack([best, (best + random.integers(1, 8, (60, 3))) % 8], axis=2))
    cluster = flat_cluster(4, 2, 3.0)
    made = {
        "load": (counts, ExpertRequest(objective="load", redundant=4)),
        "joint": (flow, ExpertRequest(objective="joint", work=100_000)),
        "copies": (flow, ExpertRequest(objective="transitions", redundant=4, work=100_000)),
        "home": (ids, ExpertRequest(objective="fanout", work=10_000)),
    }
    return {
        name: json.loads(dump_plan(plan_experts(load_workloads([str(file)], None, None, 0.0), cluster, request)))
        for name, (file, request) in made.items()
    }


@pytest.mark.parametrize("name", ["load", "joint", "copies", "home"])
def test_an_edit_that_still_validates_is_harmless(plans, name):
    assert validate_plan(parse(json.dumps(plans[name]), "plan")) == []
    harmful = [path for path in survivors(plans[name]) if not any(part in path for part in HARMLESS)]
    assert harmful == []


def test_two_experts_that_changed_places_are_told(plans):
    row = plans["joint"]["placement"][1]
    first, second = next((a, b) for a in range(8) for b in range(8) if row[a] != row[b])
    row[first], row[second] = row[second], row[first]
    texts = validate_plan(parse(json.dumps(plans["joint"]), "plan"))
    assert any("the placement makes" in text for text in texts)

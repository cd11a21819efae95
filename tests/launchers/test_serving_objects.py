"""Serving exports for Kubernetes are valid by the clusters' own definitions, which also refuse what is broken."""

from __future__ import annotations

import copy

import pytest
import yaml

from shardwright.planner import export_plan
from tests.launchers import definitions
from tests.serving_plans import plan_of

pytest.importorskip("jsonschema", reason="the launcher checks run in `make test-launchers`")

LWS, LLMISVC = "lws.yaml", "llmisvc.yaml"


def objects(shape: str, engine: str, launcher: str, kind: str) -> list[dict]:
    """The objects of one kind in a whole export."""
    files = export_plan(plan_of(shape, engine), launcher).files
    texts = [text for name, text in files.items() if name.endswith(".yaml") and "values" not in name]
    found = [document for text in texts for document in yaml.safe_load_all(text)]
    return [document for document in found if document["kind"] == kind]


@pytest.mark.parametrize("shape", ["one worker", "uneven stages", "a stage a node", "tp over nodes", "wide experts"])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_leader_worker_sets_are_accepted(shape, engine):
    [found] = objects(shape, engine, "leaderworkerset", "LeaderWorkerSet")
    assert definitions.problems(found, LWS) == []


@pytest.mark.parametrize("shape", ["one worker", "a stage a node", "wide experts", "split", "wide experts, split"])
def test_inference_services_are_accepted(shape):
    [found] = objects(shape, "vllm", "kserve", "LLMInferenceService")
    assert definitions.problems(found, LLMISVC) == []


@pytest.mark.parametrize("shape", ["a stage a node", "wide experts, split"])
def test_leader_worker_sets_of_llm_d_are_accepted(shape):
    found = objects(shape, "vllm", "llm-d", "LeaderWorkerSet")
    assert found
    assert [definitions.problems(each, LWS) for each in found] == [[]] * len(found)


@pytest.mark.parametrize(
    ("launcher", "kind", "definition", "path", "value"),
    [
        ("leaderworkerset", "LeaderWorkerSet", LWS, ("spec", "leaderWorkerTemplate", "size"), "two"),
        ("leaderworkerset", "LeaderWorkerSet", LWS, ("spec", "leaderWorkerTemplate", "leader"), {}),
        ("leaderworkerset", "LeaderWorkerSet", LWS, ("spec", "startupPolicy"), "Whenever"),
        ("kserve", "LLMInferenceService", LLMISVC, ("spec", "parallelism", "tensor"), "eight"),
        ("kserve", "LLMInferenceService", LLMISVC, ("spec", "parallelism", "attention"), 8),
        ("kserve", "LLMInferenceService", LLMISVC, ("spec", "model", "uri"), None),
    ],
)
def test_broken_objects_are_refused(launcher, kind, definition, path, value):
    [found] = objects("a stage a node", "vllm", launcher, kind)
    broken = copy.deepcopy(found)
    inside = broken
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    assert definitions.problems(broken, definition) != []

"""Serving exports for Kubernetes are valid by the clusters' own definitions, which also refuse what is broken."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from shardwright.planner import export_plan
from tests.launchers import definitions, kustomize
from tests.serving_plans import plan_of

pytest.importorskip("jsonschema", reason="the launcher checks run in `make test-launchers`")

LWS, LLMISVC = "lws.yaml", "llmisvc.yaml"


def objects(shape: str, engine: str, launcher: str, kind: str) -> list[dict]:
    """The objects of one kind in a whole export."""
    files = export_plan(plan_of(shape, engine), launcher).files
    apart = ("values", "kustomization")
    texts = [text for name, text in files.items() if name.endswith(".yaml") and not any(word in name for word in apart)]
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


def llm_d_folder(shape: str, folder: Path) -> dict[str, str]:
    """A whole export of llm-d, in a folder."""
    files = export_plan(plan_of(shape, "vllm"), "llm-d").files
    for name, text in files.items():
        (folder / name).write_text(text)
    return files


@pytest.mark.parametrize("shape", ["one worker", "a stage a node", "split", "wide experts, split"])
def test_kustomize_builds_the_folder_of_llm_d_without_a_change(shape, tmp_path):
    files = llm_d_folder(shape, tmp_path)
    built = kustomize.build(tmp_path)
    written = [yaml.safe_load(files[name]) for name in yaml.safe_load(files["kustomization.yaml"])["resources"]]
    assert sorted(built, key=lambda each: each["metadata"]["name"]) == sorted(
        written, key=lambda each: each["metadata"]["name"]
    )


@pytest.mark.parametrize("broken", ["a field", "a resource", "two of a name"])
def test_kustomize_refuses_a_broken_folder(broken, tmp_path):
    files = llm_d_folder("split", tmp_path)
    document = yaml.safe_load(files["kustomization.yaml"])
    if broken == "a field":
        document["noSuchField"] = []
    elif broken == "a resource":
        document["resources"].append("nowhere.yaml")
    else:
        (tmp_path / "again.yaml").write_text(files[document["resources"][0]])
        document["resources"].append("again.yaml")
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match=r"\w"):
        kustomize.build(tmp_path)


def without_defaults(read: dict) -> dict:
    """A pod as it was written: its ports' protocol is what the model adds."""
    for container in (*read["spec"]["containers"], *read["spec"].get("initContainers", ())):
        for port in container.get("ports", ()):
            assert port.pop("protocol") == "TCP"
    return read


@pytest.mark.parametrize("shape", ["one worker", "split"])
def test_kubernetes_own_models_read_every_field_of_the_pods_of_deployments(shape):
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="they come with `make test-launchers`")
    found = objects(shape, "vllm", "llm-d", "Deployment")
    assert found
    for each in found:
        template = each["spec"]["template"]
        read = models.IoK8sApiCoreV1PodTemplateSpec.from_dict(template)
        assert without_defaults(read.to_dict()) == template
        broken = copy.deepcopy(template)
        broken["spec"]["containers"][0]["ports"] = [{"containerPort": "http"}]
        with pytest.raises(ValueError, match="valid integer"):
            models.IoK8sApiCoreV1PodTemplateSpec.from_dict(broken)


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

"""What is exported to Kubernetes is valid by the real definitions, and its pods play the ranks that the plan says."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from shardwright.planner import Strategy, export_plan
from tests.launchers import definitions, plans, torch_words

models = pytest.importorskip("kubeflow_trainer_api.models", reason="the launcher checks run in `make test-launchers`")

STRATEGY = Strategy(tp=2, sp=True, dp_shard=8)


def exported(launcher: str) -> dict[str, str]:
    order = plans.reordered if launcher == "jobset" else lambda plan: plan
    return export_plan(order(plans.two_hosts(STRATEGY, 8)), launcher).files


def document(launcher: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(exported(launcher)[f"{launcher}.yaml"])
    return found


def test_kubeflows_own_models_read_the_job_set():
    found = models.JobsetV1alpha2JobSet.from_dict(document("jobset"))
    assert [job.name for job in found.spec.replicated_jobs] == ["node-0", "node-1"]
    pods = [job.template.spec.template.spec for job in found.spec.replicated_jobs]
    assert [pod.node_selector["kubernetes.io/hostname"] for pod in pods] == ["n1", "n0"]


def test_kubeflows_own_models_read_the_train_job():
    found = models.TrainerV1alpha1TrainJob.from_dict(document("trainjob"))
    assert (found.spec.trainer.num_nodes, found.spec.trainer.num_proc_per_node) == (2, 8)


@pytest.mark.parametrize("launcher", ["jobset", "trainjob"])
def test_kubeflows_own_models_refuse_a_broken_export(launcher):
    broken = document(launcher)
    if launcher == "jobset":
        broken["spec"]["replicatedJobs"][0]["replicas"] = "one"
        kind = models.JobsetV1alpha2JobSet
    else:
        broken["spec"]["trainer"]["numNodes"] = "two"
        kind = models.TrainerV1alpha1TrainJob
    with pytest.raises(ValueError, match="valid integer"):
        kind.from_dict(broken)


@pytest.mark.parametrize(
    ("launcher", "file", "definition"),
    [
        ("jobset", "jobset.yaml", "jobset.yaml"),
        ("trainjob", "trainjob.yaml", "trainjob.yaml"),
        ("jobset", "kueue_topology.yaml", "kueue_topology.yaml"),
    ],
)
def test_the_clusters_own_definitions_accept_the_objects_and_no_unknown_field(launcher, file, definition):
    found = yaml.safe_load(exported(launcher)[file])
    assert definitions.problems(found, definition) == []
    broken = copy.deepcopy(found)
    broken["spec"]["noSuchField"] = 1
    assert "noSuchField" in definitions.problems(broken, definition)[0]


def test_pods_of_a_job_set_play_the_ranks_of_their_hosts():
    plan, found = plans.reordered(plans.two_hosts(STRATEGY, 8)), []
    for job in document("jobset")["spec"]["replicatedJobs"]:
        pod = job["template"]["spec"]["template"]["spec"]
        [container] = pod["containers"]
        variables = {each["name"]: each["value"] for each in container["env"]}
        started = torch_words.parsed(container["command"][1:])
        devices = variables["CUDA_VISIBLE_DEVICES"].split(",")
        assert started.nproc_per_node == len(devices)
        for local, device in enumerate(devices):
            rank = started.node_rank * started.nproc_per_node + local
            found.append((rank, (pod["nodeSelector"]["kubernetes.io/hostname"], int(device))))
    assert [place for _, place in sorted(found)] == plans.places(plan)
    assert json.dumps(document("jobset")).count("--rdzv-backend=static") == 2

"""Kubernetes: a JobSet that pins every rank's host, or a Kubeflow TrainJob where hosts may be any."""

from __future__ import annotations

from ..errors import InputError
from .base import Context, Export
from .folder import PORT, object_name, program_files, readme, yaml_text
from .hosts import Host, hosts, plain_name, program_notes, refuse_techniques, training_plan, visible_devices

IMAGE = "pytorch/pytorch:2.13.0"
_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
_LEVELS = ("cloud.provider.com/topology-block", "cloud.provider.com/topology-rack", "kubernetes.io/hostname")
_NOTES = (
    f"image {IMAGE}, program train.py and the ConfigMap's mount are placeholders for yours",
    "the queue name `training` must be a LocalQueue of the namespace",
)
_LONGEST_CONFIG_MAP = 900_000


class JobSet:
    """A JobSet of one replicated job a host, each pinned by its host name."""

    name = "jobset"
    kinds = ("training",)
    validated_with = "jobset.x-k8s.io/v1alpha2 (kubeflow-trainer-api 2.3.0)"

    def __call__(self, context: Context) -> Export:
        """`jobset.yaml`, with the ConfigMap that carries the plan."""
        refuse_techniques(training_plan(context).strategy, self.name)
        ordered, name = hosts(context, self.name), object_name(training_plan(context).model)
        document = {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": "training"}},
            "spec": {
                "network": {"enableDNSHostnames": True},
                "replicatedJobs": [self._job(context, ordered, index, name) for index in range(len(ordered))],
            },
        }
        text = yaml_text(document)
        return Export(
            text=text,
            files={"jobset.yaml": text, **_rest(context, ordered, name, "jobset.yaml")},
            cannot_express=(*_NOTES, *program_notes(context)),
        )

    def _job(self, context: Context, ordered: tuple[Host, ...], index: int, name: str) -> dict[str, object]:
        host = ordered[index]
        first = f"{name}-node-0-0-0.{name}"
        pod = {
            "restartPolicy": "Never",
            "nodeSelector": {"kubernetes.io/hostname": plain_name(host.name, self.name)},
            "containers": [_container(context, host, _torchrun(len(ordered), len(host.devices), index, first))],
            "volumes": [{"name": "plan", "configMap": {"name": f"{name}-plan"}}],
        }
        job = {"parallelism": 1, "completions": 1, "completionMode": "Indexed", "backoffLimit": 0}
        return {"name": f"node-{index}", "replicas": 1, "template": {"spec": {**job, "template": {"spec": pod}}}}


class TrainJob:
    """A Kubeflow TrainJob: pods are numbered as they come, so hosts must be interchangeable."""

    name = "trainjob"
    kinds = ("training",)
    validated_with = "trainer.kubeflow.org/v1alpha1 (kubeflow-trainer-api 2.3.0)"

    def __call__(self, context: Context) -> Export:
        """`trainjob.yaml` and the Kueue topology that keeps its pods near. Raises InputError for a chosen order."""
        refuse_techniques(training_plan(context).strategy, self.name)
        ordered, name = hosts(context, self.name), object_name(training_plan(context).model)
        if [host.node for host in ordered] != sorted(host.node for host in ordered):
            raise InputError("export: trainjob cannot choose which host plays which rank; use jobset")
        if any(list(host.devices) != list(range(len(host.devices))) for host in ordered):
            raise InputError("export: trainjob cannot order the devices of a host; use jobset")
        container = _container(context, ordered[0], [])
        count = len(ordered[0].devices)
        near = {"kueue.x-k8s.io/podset-preferred-topology": _LEVELS[0]}
        patch = {
            "template": {
                "spec": {
                    "replicatedJobs": [
                        {"name": "node", "template": {"spec": {"template": {"metadata": {"annotations": near}}}}}
                    ]
                }
            }
        }
        document = {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": "training"}},
            "spec": {
                "runtimeRef": {"name": "torch-distributed"},
                "trainer": {
                    "numNodes": len(ordered),
                    "numProcPerNode": count,
                    "image": IMAGE,
                    "command": ["torchrun", "--rdzv-backend=static", "train.py"],
                    "resourcesPerNode": container["resources"],
                },
                "runtimePatches": [
                    {"manager": "shardwright.dev/exporter", "trainingRuntimeSpec": {"template": patch["template"]}}
                ],
            },
        }
        text = yaml_text(document)
        notes = (
            *_NOTES,
            "any host may play any rank: pods are numbered as they are scheduled",
            *program_notes(context),
        )
        files = {"trainjob.yaml": text, **_rest(context, ordered, name, "trainjob.yaml")}
        return Export(text=text, files=files, cannot_express=notes)


def _torchrun(nodes: int, processes: int, index: int, first: str) -> list[str]:
    return [
        "torchrun",
        f"--nnodes={nodes}",
        f"--nproc-per-node={processes}",
        f"--node-rank={index}",
        "--rdzv-backend=static",
        f"--master-addr={first}",
        f"--master-port={PORT}",
        "train.py",
    ]


def _container(context: Context, host: Host, command: list[str]) -> dict[str, object]:
    topology = context.topology
    assert topology is not None
    vendor = topology.accelerators[0].vendor
    resource = _RESOURCES.get(vendor.lower())
    if resource is None:
        raise InputError(f"export: kubernetes has no device resource for {vendor} here")
    per_node = int((topology.device_node == host.node).sum())
    variable, value = visible_devices(context, host.devices)
    variables = {variable: value, "SHARDWRIGHT_PLAN": "/plan/plan.json", "PYTHONPATH": "/plan"}
    return {
        "name": "main",
        "image": IMAGE,
        "command": [word.replace("$", "$$") for word in command],
        "env": [{"name": each, "value": text} for each, text in variables.items()],
        "resources": {"limits": {resource: str(per_node)}},
        "volumeMounts": [{"name": "plan", "mountPath": "/plan"}],
    }


def _rest(context: Context, ordered: tuple[Host, ...], name: str, main: str) -> dict[str, str]:
    plan = program_files(context)
    topology = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Topology",
        "metadata": {"name": "default"},
        "spec": {"levels": [{"nodeLabel": label} for label in _LEVELS]},
    }
    steps = [
        "Apply `kueue_topology.yaml` once a cluster, where Kueue has no topology yet.",
        f"Make the ConfigMap: `kubectl create configmap {name}-plan --from-file=plan.json "
        "--from-file=shardwright_plan.py`.",
        f"Run `kubectl apply -f {main}`; all pods start together and wait for order 0.",
    ]
    if len(plan["plan.json"]) > _LONGEST_CONFIG_MAP:
        steps[1] = f"Put plan.json on a volume that replaces the ConfigMap {name}-plan: it is too large for one."
    return {
        "kueue_topology.yaml": yaml_text(topology),
        "README.md": readme("Start on Kubernetes", steps, ordered, (*_NOTES, *program_notes(context))),
        **plan,
    }

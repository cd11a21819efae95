"""LeaderWorkerSet: a group of pods per worker, joined by the leader's address, for vLLM or SGLang."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from .base import Context, Export
from .folder import plan_file, yaml_text
from .serving_folder import serving_readme
from .serving_kubernetes import NOTES, PORT, SECRET, Pods, data, deployment_name, label_steps, pods, variables
from .serving_workers import ANY_ADDRESS, refuse, replica_order, serving_plan, split_pools, stage_order
from .sglang import DIST_PORT, sglang_environment, sglang_flags, sglang_notes, sglang_options
from .sglang import VERSION as SGLANG
from .vllm import MASTER_PORT, vllm_environment, vllm_flags, vllm_notes, vllm_options
from .vllm import VERSION as VLLM

IMAGES = {"vllm": f"vllm/vllm-openai:v{VLLM}", "sglang": f"lmsysorg/sglang:v{SGLANG}"}
# What joins the pods of a group, read by the pod's own shell: the words of the plan are its arguments, never its text.
_JOIN = {
    "vllm": ' --nnodes "$LWS_GROUP_SIZE" --node-rank "$LWS_WORKER_INDEX" --master-addr "$LWS_LEADER_ADDRESS"'
    f" --master-port {MASTER_PORT}",
    "sglang": ' --nnodes "$LWS_GROUP_SIZE" --node-rank "$LWS_WORKER_INDEX"'
    f' --dist-init-addr "$LWS_LEADER_ADDRESS:{DIST_PORT}"',
}
_HEADLESS = {"vllm": " --headless", "sglang": ""}
_PROGRAM = {"vllm": "vllm serve", "sglang": "python3 -m sglang.launch_server"}


class LeaderWorkerSets:
    """One LeaderWorkerSet a pool and a Service over the leaders; it routes nothing between prefill and decode."""

    name = "leaderworkerset"
    kinds = ("serving",)
    validated_with = "leaderworkerset.x-k8s.io/v1 (its CRD schema, strict)"

    def __call__(self, context: Context) -> Export:
        """`leaderworkerset.yaml`. Raises InputError for split pools and for what the engine cannot run."""
        plan = serving_plan(context)
        refuse(plan, self.name, tuple(IMAGES))
        if split_pools(plan):
            raise InputError(
                "export: leaderworkerset routes nothing between prefill and decode; use llm-d, kserve or dynamo"
            )
        found = pods(context, self.name, replica_order if plan.engine == "vllm" else stage_order)
        app = deployment_name(plan)
        documents = [leader_worker_set(context, each, app, {"app": app}, self.name) for each in found]
        documents.append(_service(app))
        text = "---\n".join(yaml_text(document) for document in documents)
        notes = (*engine_notes(context, self.name), *NOTES)
        steps = [
            "Install LeaderWorkerSet once a cluster.",
            *label_steps(found),
            "Run `kubectl apply -f leaderworkerset.yaml`; the pods of a group wait for their leader.",
            f"Send requests to port {PORT} of the service {app}, which spreads connections over all workers.",
        ]
        files = {
            "leaderworkerset.yaml": text,
            "README.md": serving_readme("Start as LeaderWorkerSet", steps, (), notes),
        }
        return Export(text=text, files={**files, **plan_file(context)}, cannot_express=notes)


def engine_notes(context: Context, launcher: str) -> tuple[str, ...]:
    """What the plan's engine needs beside its options."""
    found = vllm_notes if serving_plan(context).engine == "vllm" else sglang_notes
    return found(context, launcher)


def leader_worker_set(context: Context, each: Pods, app: str, labels: dict[str, str], launcher: str) -> dict[str, Any]:
    """A pool as a LeaderWorkerSet."""
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": f"{app}-{each.name}", "labels": labels},
        "spec": {
            "replicas": each.pool.workers,
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": {
                "size": each.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {"metadata": {"labels": labels}, "spec": _pod(context, each, launcher, False)},
                "workerTemplate": {"spec": _pod(context, each, launcher, True)},
            },
        },
    }


def engine_container(
    context: Context, each: Pods, launcher: str, worker: bool = False, port: int = PORT
) -> dict[str, Any]:
    """The container of the plan's engine, its options as arguments, joined with the others of its group."""
    engine = serving_plan(context).engine
    if engine == "vllm":
        flags = vllm_flags(vllm_options(context, each.pool, launcher))
        environment = vllm_environment(context, each.pool)
    else:
        flags = sglang_flags(sglang_options(context, each.pool, launcher))
        environment = sglang_environment(context, each.pool)
    address = f" --host {ANY_ADDRESS} --port {port}" if engine == "sglang" or not worker else _HEADLESS[engine]
    join = _JOIN[engine] if each.nodes > 1 else ""
    container: dict[str, Any] = {
        "name": "modelserver",
        "image": IMAGES[engine],
        "command": ["sh", "-c", f'exec {_PROGRAM[engine]} "$@"{address}{join}', engine],
        "args": data(flags),
        "env": [*variables(environment), SECRET],
        "resources": each.resources,
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 - where the engines share memory
    }
    if not worker:
        container["ports"] = [{"name": "modelserver", "containerPort": port}]
        container["readinessProbe"] = {"httpGet": {"path": "/health", "port": port}, "periodSeconds": 10}
    return container


def pod_spec(each: Pods, containers: list[dict[str, Any]]) -> dict[str, Any]:
    """A pod of these containers on the pool's nodes, with shared memory for the engine's processes."""
    spec: dict[str, Any] = {
        "containers": containers,
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
    return spec | ({"nodeSelector": each.select} if each.select else {})


def _pod(context: Context, each: Pods, launcher: str, worker: bool) -> dict[str, Any]:
    return pod_spec(each, [engine_container(context, each, launcher, worker)])


def _service(app: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": app},
        "spec": {
            "selector": {"app": app, "leaderworkerset.sigs.k8s.io/worker-index": "0"},
            "ports": [{"port": PORT, "targetPort": PORT}],
        },
    }

"""llm-d: model servers in the form of its Kustomize guides, and the values of its router's chart, for vLLM."""

from __future__ import annotations

from typing import Any

from .base import Context, Export
from .folder import plan_file, yaml_text
from .leaderworkerset import engine_container, engine_notes, leader_worker_set, pod_spec
from .serving_folder import serving_readme
from .serving_kubernetes import NOTES, POD_IP, PORT, Pods, deployment_name, label_steps, pods
from .serving_workers import refuse, replica_order, serving_plan, split_pools

SIDECAR_IMAGE = "ghcr.io/llm-d/llm-d-routing-sidecar:v0.7.1"
ROUTER_CHART = "oci://ghcr.io/llm-d/charts/llm-d-router-standalone"
BEHIND_SIDECAR = 8200
_ROLES = {"prefill": "prefill", "decode": "decode", "aggregated": "prefill-decode"}
_PICKER = """\
apiVersion: llm-d.ai/v1
kind: EndpointPickerConfig
plugins:
- type: always-disagg-pd-decider
- type: disagg-profile-handler
  parameters:
    deciders:
      prefill: always-disagg-pd-decider
- type: prefill-filter
- type: decode-filter
- type: active-request-scorer
- type: max-score-picker
schedulingProfiles:
- name: prefill
  plugins:
  - pluginRef: prefill-filter
  - pluginRef: active-request-scorer
  - pluginRef: max-score-picker
- name: decode
  plugins:
  - pluginRef: decode-filter
  - pluginRef: active-request-scorer
  - pluginRef: max-score-picker
"""
_NOTES = (
    "the CRDs of the Gateway API inference extension, and LeaderWorkerSet where a worker has several nodes",
    "image versions are those of llm-d's guides when this was written: take those of your release",
)


class LlmD:
    """A Deployment a pool (a LeaderWorkerSet where a worker has several nodes), and router values."""

    name = "llm-d"
    kinds = ("serving",)
    validated_with = "Kustomize, and LeaderWorkerSets by their CRD schema; in the form of llm-d's guides from 0.7 on"

    def __call__(self, context: Context) -> Export:
        """The Kustomize folder. Raises InputError for what vLLM cannot run."""
        plan = serving_plan(context)
        refuse(plan, self.name, ("vllm",))
        app = deployment_name(plan)
        found = pods(context, self.name, replica_order)
        files = {f"{each.name}.yaml": yaml_text(_server(context, each, app)) for each in found}
        resources = sorted(files)
        files["kustomization.yaml"] = yaml_text(
            {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
        )
        files["router.values.yaml"] = yaml_text(_router_values(app, split_pools(plan)))
        notes = (*engine_notes(context, self.name), *NOTES, *_NOTES)
        steps = [
            "Create the namespace and go into this folder.",
            *label_steps(found),
            f"Install the router: `helm install {app} {ROUTER_CHART} -f router.values.yaml -n NAMESPACE`.",
            "Run `kubectl apply -k . -n NAMESPACE`.",
            "Send requests to the router's service.",
        ]
        files["README.md"] = serving_readme("Start with llm-d", steps, (), notes)
        text = "---\n".join(files[name] for name in resources)
        return Export(text=text, files={**files, **plan_file(context)}, cannot_express=notes)


def _server(context: Context, each: Pods, app: str) -> dict[str, Any]:
    labels = {
        "llm-d.ai/inference-serving": "true",
        "llm-d.ai/guide": app,
        "llm-d.ai/role": _ROLES[each.pool.phase],
        "llm-d.ai/model": app,
    }
    if each.nodes > 1:
        document = leader_worker_set(context, each, app, labels, LlmD.name)
        template = document["spec"]["leaderWorkerTemplate"]
        template["leaderTemplate"]["spec"] = _pod(context, each, False)
        template["workerTemplate"]["spec"] = _pod(context, each, True)
        return document
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{app}-{each.name}", "labels": labels},
        "spec": {
            "replicas": each.pool.workers,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(context, each, False)},
        },
    }


def _pod(context: Context, each: Pods, worker: bool) -> dict[str, Any]:
    """The engine; on a decode leader behind the proxy that asks a prefill worker first."""
    proxied = each.pool.phase == "decode" and not worker
    container = engine_container(context, each, LlmD.name, worker, BEHIND_SIDECAR if proxied else PORT)
    if each.pool.phase != "aggregated":
        container["env"].insert(0, {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", **POD_IP})
    spec = pod_spec(each, [container])
    if proxied:
        spec["initContainers"] = [
            {
                "name": "routing-proxy",
                "image": SIDECAR_IMAGE,
                "args": [
                    f"--port={PORT}",
                    f"--vllm-port={BEHIND_SIDECAR}",
                    "--connector=nixlv2",
                    "--secure-proxy=false",
                ],
                "ports": [{"name": "sidecar", "containerPort": PORT}],
                "restartPolicy": "Always",
            }
        ]
    return spec


def _router_values(app: str, split: bool) -> dict[str, Any]:
    picker = {"pluginsConfigFile": "pd-config.yaml", "pluginsCustomConfig": {"pd-config.yaml": _PICKER}}
    epp = {"replicas": 1, **(picker if split else {"pluginsConfigFile": "default-plugins.yaml"})}
    return {"router": {"epp": epp, "modelServers": {"protocol": "http", "matchLabels": {"llm-d.ai/guide": app}}}}

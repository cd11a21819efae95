"""Kubernetes: a Deployment and a Service for every row of a rented fleet, and Gateway routes with its weights."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..inputs import accelerator_vendor
from .base import Context, Export
from .fleet_units import Unit, class_name, engine_words, readable, routing_document, steady_rental, units, weights_of
from .folder import yaml_text
from .serving_kubernetes import ACCELERATOR_LABEL, PORT, RESOURCES, SECRET, data, label_value
from .vllm import VERSION

IMAGE = f"vllm/vllm-openai:v{VERSION}"
HEADER = "x-request-class"
# The most rules an HTTPRoute may hold, and services a rule: `MaxItems=16` of HTTPRouteSpec.Rules and of
# HTTPRouteRule.BackendRefs (apis/v1/httproute_types.go of kubernetes-sigs/gateway-api).
RULES = BACKENDS = 16
TIER_LABEL = "shardwright.dev/tier"
REGION_LABEL = "topology.kubernetes.io/region"
_NOTES = (
    f"nodes of each GPU type must carry {ACCELERATOR_LABEL}, and {TIER_LABEL} where they are spot or reserved",
    "the Gateway `inference`, and what sets the header x-request-class by a request's model and size (routing.json)",
    "the secret hf-token with the key HF_TOKEN, where the weights need one",
)


class FleetKubernetes:
    """Deployments, Services and HTTPRoutes."""

    name = "fleet-kubernetes"
    kinds = ("fleet",)
    validated_with = "apps/v1 and v1 of Kubernetes 1.37, gateway.networking.k8s.io/v1"

    def __call__(self, context: Context) -> Export:
        """`fleet.yaml` and `routing.json`. Raises InputError for what the objects cannot say."""
        found = steady_rental(context, self.name)
        named = units(found)
        objects, notes = [], list(_NOTES)
        for unit in named:
            words = engine_words(context, unit.replica, self.name, PORT)
            objects += [self._deployment(unit, words), _service(unit)]
            notes += unit.clock_note
            if words is None:
                notes.append(f"the arguments of {unit.replica.name}: a measured table says nothing of its degrees")
        rules = [
            _rule(at, [(named[row].name, weight) for row, weight in weights_of(found, at)])
            for at in range(len(found.classes))
        ]
        for number, start in enumerate(range(0, len(rules), RULES)):
            objects.append(
                {
                    "apiVersion": "gateway.networking.k8s.io/v1",
                    "kind": "HTTPRoute",
                    "metadata": {"name": f"fleet-{number}"},
                    "spec": {"parentRefs": [{"name": "inference"}], "rules": rules[start : start + RULES]},
                }
            )
        text = "---\n".join(yaml_text(each) for each in objects)
        files = {"fleet.yaml": text, "routing.json": readable(routing_document(found))}
        return Export(text, files, tuple(dict.fromkeys(notes)))

    def _deployment(self, unit: Unit, words: list[str] | None) -> dict[str, Any]:
        try:
            resource = RESOURCES.get(accelerator_vendor(unit.gpu).lower())
        except InputError as error:
            raise InputError(f"export: {self.name} asks a node for its maker's devices: {error}") from None
        if resource is None:
            raise InputError(f"export: {self.name} has no device resource for {unit.gpu}")
        select = {ACCELERATOR_LABEL: self._label(unit.gpu)}
        if unit.rented.region:
            select[REGION_LABEL] = self._label(unit.rented.region)
        if unit.rented.tier != "on-demand":
            select[TIER_LABEL] = unit.rented.tier
        container: dict[str, Any] = {
            "name": "engine",
            "image": IMAGE,
            "ports": [{"containerPort": PORT}],
            "env": [SECRET],
            "resources": {"limits": {resource: str(unit.replica.gpus)}},
            "readinessProbe": {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 10},
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 - the pod's own memory volume
        }
        if words is not None:
            container |= {"command": data(words[:2]), "args": data(words[2:])}
        labels = {"app": unit.name}
        pod = {
            "nodeSelector": select,
            "containers": [container],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": unit.name},
            "spec": {
                "replicas": unit.copies,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }

    def _label(self, text: str) -> str:
        value = label_value(text)
        if value != text:
            raise InputError(f"export: {self.name} cannot use {text!r} as a label: letters, digits, '.', '_', '-'")
        return value


def _service(unit: Unit) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": unit.name},
        "spec": {"selector": {"app": unit.name}, "ports": [{"port": PORT, "targetPort": PORT}]},
    }


def _rule(number: int, weights: list[tuple[str, int]]) -> dict[str, Any]:
    if len(weights) > BACKENDS:
        raise InputError(
            f"export: an HTTPRoute spreads requests over at most {BACKENDS} services, but {class_name(number)} goes to "
            f"{len(weights)} rows of the rental; export it to fleet-routing"
        )
    return {
        "matches": [{"headers": [{"name": HEADER, "value": class_name(number)}]}],
        "backendRefs": [{"name": name, "port": PORT, "weight": weight} for name, weight in weights],
    }

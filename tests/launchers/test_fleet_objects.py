"""Kubernetes objects of rented fleets are valid by Kubernetes' own schemas, which also refuse what is broken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from shardwright.planner import export_plan
from tests.launchers import definitions, fleets

kubernetes = pytest.importorskip("kubernetes_validate", reason="the launcher checks run in `make test-launchers`")

VERSION = kubernetes.latest_version()
ROUTE = ("llmisvc.yaml", "v1alpha2", "spec", "router", "route", "http", "spec")
PLANS = {"catalog": fleets.catalog_plan, "measured": fleets.measured_plan}


def objects(plan: str, kind: str) -> list[dict[str, Any]]:
    """The objects of one kind in a whole export."""
    text = export_plan(PLANS[plan](), "fleet-kubernetes").files["fleet.yaml"]
    return [each for each in yaml.safe_load_all(text) if each["kind"] == kind]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_kubernetes_own_schemas_accept_the_objects(plan, kind):
    found = objects(plan, kind)
    assert found
    for each in found:
        kubernetes.validate(each, VERSION, strict=True)


@pytest.mark.parametrize("plan", PLANS)
def test_the_gateways_own_schema_accepts_the_routes(plan):
    found = objects(plan, "HTTPRoute")
    assert sum(len(each["spec"]["rules"]) for each in found) == len(PLANS[plan]().rental.classes)
    for each in found:
        assert definitions.part_problems(each["spec"], *ROUTE) == []


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "replicas"), "two"),
        ("Deployment", ("spec", "selector"), "all"),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "image"), 3),
        ("Deployment", ("spec", "template", "spec", "nodePicker"), {}),
        ("Service", ("spec", "ports", 0, "port"), "http"),
        ("Service", ("spec", "picks"), {}),
    ],
)
def test_broken_objects_are_refused(kind, path, value):
    broken = changed(objects("catalog", kind)[0], path, value)
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(broken, VERSION, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rules", 0, "backendRefs", 0, "weight"), -1),
        (("rules", 0, "backendRefs", 0, "weight"), 2_000_000),
        (("rules", 0, "matches", 0, "headers", 0, "name"), "a b"),
        (("rules", 0, "share"), 1),
        (("rules",), [{}] * 17),
    ],
)
def test_broken_routes_are_refused(path, value):
    broken = changed(objects("catalog", "HTTPRoute")[0]["spec"], path, value)
    assert definitions.part_problems(broken, *ROUTE) != []


def changed(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at a path."""
    found = copy.deepcopy(document)
    inside: Any = found
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return found

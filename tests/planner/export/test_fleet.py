"""Exports of rented fleets: counts, places and weights as the plan says, and nothing dropped."""

from __future__ import annotations

import json

import msgspec
import pytest
import yaml

from shardwright.planner import InputError, export_plan
from shardwright.planner.export.base import Context
from shardwright.planner.export.fleet_kubernetes import FleetKubernetes
from tests.launchers import fleets
from tests.planner.fleet.instances import plan, two_gpus, two_regions


@pytest.fixture(scope="module")
def catalog_plan():
    return fleets.catalog_plan()


def test_kubernetes_runs_as_many_copies_where_the_plan_says(catalog_plan):
    made = export_plan(catalog_plan, "fleet-kubernetes")
    objects = list(yaml.safe_load_all(made.files["fleet.yaml"]))
    deployments = [each for each in objects if each["kind"] == "Deployment"]
    rented = catalog_plan.rental.rented
    assert [each["spec"]["replicas"] for each in deployments] == [each.count for each in rented]
    for each, row in zip(deployments, rented, strict=True):
        pod = each["spec"]["template"]["spec"]
        replica = catalog_plan.rental.replicas[row.replica]
        assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": str(replica.gpus)}
        assert pod["nodeSelector"]["shardwright.dev/accelerator"] == replica.gpu
        assert pod["nodeSelector"].get("topology.kubernetes.io/region", "") == row.region
        assert pod["containers"][0]["args"][0] == "meta-llama/Llama-3.1-8B"
        assert each["spec"]["selector"]["matchLabels"] == each["spec"]["template"]["metadata"]["labels"]
    services = {each["metadata"]["name"] for each in objects if each["kind"] == "Service"}
    assert services == {each["metadata"]["name"] for each in deployments}


def test_weights_are_the_shares_of_the_plan(catalog_plan):
    objects = yaml.safe_load_all(export_plan(catalog_plan, "fleet-kubernetes").files["fleet.yaml"])
    rules = [rule for each in objects if each["kind"] == "HTTPRoute" for rule in each["spec"]["rules"]]
    rental = catalog_plan.rental
    assert len(rules) == len(rental.classes)
    routing = json.loads(export_plan(catalog_plan, "fleet-routing").text)
    for at, rule in enumerate(rules):
        assert rule["matches"] == [{"headers": [{"name": "x-request-class", "value": f"class-{at}"}]}]
        total = sum(each["weight"] for each in rule["backendRefs"])
        shares = {each["name"]: each["weight"] / total for each in rule["backendRefs"]}
        assert routing["classes"][at]["weights"].keys() == shares.keys()
        for row, unit in enumerate(routing["units"]):
            share = rental.routing[rental.rented[row].replica][at]
            assert shares.get(unit["name"], 0.0) == pytest.approx(share, abs=1e-3)


def test_many_classes_need_several_routes():
    lengths = [{"isl": 100 + at, "osl": 50} for at in range(20)]
    chat = {"model": "chat", "rate_per_s": 5.0, "lengths": lengths}
    tables = [{"model": "chat", "gpu": "a10g", "requests_per_s": [3.0] * 20}]
    made = export_plan(
        plan(two_gpus(models=[chat], tables=tables, offers=[{"gpu": "a10g", "usd_per_hour": 1.0}])), "fleet-kubernetes"
    )
    routes = [each for each in yaml.safe_load_all(made.text) if each["kind"] == "HTTPRoute"]
    assert [len(each["spec"]["rules"]) for each in routes] == [16, 4]
    assert any("measured table says nothing" in note for note in made.cannot_express)


def test_a_gpu_of_nobody_is_refused_where_its_maker_names_the_device(catalog_plan):
    rental = catalog_plan.rental
    replicas = tuple(msgspec.structs.replace(each, gpu="small") for each in rental.replicas)
    odd = msgspec.structs.replace(catalog_plan, rental=msgspec.structs.replace(rental, replicas=replicas))
    with pytest.raises(InputError, match="export: fleet-kubernetes asks a node for its maker's devices: unknown"):
        FleetKubernetes()(Context(odd, None, None))


def test_more_rows_than_a_rule_of_a_route_may_name_are_refused(catalog_plan):
    rental = catalog_plan.rental
    many = msgspec.structs.replace(catalog_plan, rental=msgspec.structs.replace(rental, rented=rental.rented * 17))
    with pytest.raises(InputError, match="at most 16 services, but class-"):
        FleetKubernetes()(Context(many, None, None))


def test_skypilot_serves_each_row_on_its_gpus(catalog_plan):
    made = export_plan(catalog_plan, "fleet-skypilot")
    services = [yaml.safe_load(text) for name, text in made.files.items() if name.endswith(".yaml")]
    assert [each["service"]["replicas"] for each in services] == [each.count for each in catalog_plan.rental.rented]
    by_gpu = {next(iter(each["resources"]["accelerators"])): each for each in services}
    assert by_gpu["A10G"]["resources"]["use_spot"] is True
    assert by_gpu["A10G"]["resources"]["region"] == "us-east-1"
    assert by_gpu["A100-80GB"]["resources"]["use_spot"] is False
    assert all(each["run"].startswith("exec vllm serve meta-llama/Llama-3.1-8B --port 8000 ") for each in services)


def test_losses_and_hours_are_in_the_routing_and_refused_where_they_cannot_be_said():
    safe = plan(two_regions(failures={"region": True}))
    document = json.loads(export_plan(safe, "fleet-routing").text)
    assert [each["name"] for each in document["losses"]] == ["region east fails", "region west fails"]
    hourly = plan(two_gpus(hours=[("0", 0.5), ("1", 1.0)]))
    assert [each["hour"] for each in json.loads(export_plan(hourly, "fleet-routing").text)["hours"]] == ["0", "1"]
    for launcher in ("fleet-kubernetes", "fleet-skypilot"):
        with pytest.raises(InputError, match="follows hours"):
            export_plan(hourly, launcher)


@pytest.mark.parametrize("name", ["--help", "a; rm -rf ~", "$(touch x)", "a: b # c", "|"])
def test_names_stay_data(catalog_plan, name):
    rental = catalog_plan.rental
    replicas = tuple(msgspec.structs.replace(each, model=name) for each in rental.replicas)
    classes = tuple(msgspec.structs.replace(each, model=name) for each in rental.classes)
    rental = msgspec.structs.replace(rental, replicas=replicas, classes=classes)
    odd = msgspec.structs.replace(catalog_plan, rental=rental, inputs=())
    if name.startswith("-"):
        with pytest.raises(InputError, match="reads as an option"):
            FleetKubernetes()(Context(odd, None, None))
        return
    objects = list(yaml.safe_load_all(FleetKubernetes()(Context(odd, None, None)).text))
    words = [
        each["spec"]["template"]["spec"]["containers"][0]["args"][0] for each in objects if each["kind"] == "Deployment"
    ]
    assert {word.replace("$$", "$") for word in words} == {name}


def test_a_region_that_is_no_label_is_refused(catalog_plan):
    rental = catalog_plan.rental
    rented = tuple(msgspec.structs.replace(each, region="us east!") for each in rental.rented)
    odd = msgspec.structs.replace(catalog_plan, rental=msgspec.structs.replace(rental, rented=rented))
    with pytest.raises(InputError, match="as a label"):
        FleetKubernetes()(Context(odd, None, None))

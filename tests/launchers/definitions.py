"""Kubernetes objects held to the real custom resource definitions, strictly: a field they do not know is refused."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import yaml

from tests.reference import shared_file

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def problems(document: dict[str, Any], definition: str) -> list[str]:
    """What the definition of that file name refuses in a document; skips where the definition is not here."""
    jsonschema = pytest.importorskip("jsonschema", reason="the launcher checks run in `make test-launchers`")
    validator = jsonschema.Draft202012Validator(_schema(definition, document["apiVersion"].partition("/")[2]))
    found = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.path)))
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]


def part_problems(part: dict[str, Any], definition: str, version: str, *path: str) -> list[str]:
    """What the definition refuses in a part that it embeds at a path of properties, as LLMInferenceService embeds the
    spec of an HTTPRoute."""
    jsonschema = pytest.importorskip("jsonschema", reason="the launcher checks run in `make test-launchers`")
    schema = _schema(definition, version)
    for name in path:
        schema = schema["properties"][name]
    found = jsonschema.Draft202012Validator(schema).iter_errors(part)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]


@lru_cache
def _schema(definition: str, version: str) -> dict[str, Any]:
    text = shared_file(f"launchers/crds/{definition}").read_text(encoding="utf-8")
    resource = yaml.load(text, _Loader)
    [served] = [each for each in resource["spec"]["versions"] if each["name"] == version]
    schema: dict[str, Any] = _strict(served["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _strict(schema: Any) -> Any:
    """The schema as `kubectl --validate=strict` reads it."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    open_ended = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    found = {key: _strict(value) for key, value in schema.items() if not key.startswith("x-")}
    if "properties" in found and not open_ended and "additionalProperties" not in found:
        found["additionalProperties"] = False
    return found

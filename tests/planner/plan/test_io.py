"""Plans as documents: their schemas, their bytes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from shardwright.planner import InvalidPlan, TrainingJob, dump_plan, plan_training
from shardwright.planner.plan.io import KINDS, parse, plan_type, schema

SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schemas"


@pytest.fixture(scope="module")
def text() -> str:
    return dump_plan(plan_training("gpt2", "dgx-a100:1", TrainingJob(gbs=32, sequence_length=1024)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_of_every_kind_is_that_of_its_record(kind):
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    assert json.loads((SCHEMAS / f"{kind}.json").read_text()) == json.loads(json.dumps(schema(kind)))


def test_a_plan_fits_its_schema_and_a_changed_one_does_not(text):
    document = json.loads(text)
    jsonschema.validate(document, schema("training"))
    for wrong in ({"colour": "red"}, {"rank_to_device": "0"}, {"strategy": {"tp": "four"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document | wrong, schema("training"))


def test_a_plan_read_back_gives_the_same_bytes(text):
    assert dump_plan(parse(text, "plan")) == text


@pytest.mark.parametrize("kind", ["holiday", "cooking", None, 3])
def test_a_kind_that_there_is_not_is_an_invalid_plan(text, kind):
    with pytest.raises(InvalidPlan, match="kind must be one of"):
        parse(json.dumps(json.loads(text) | {"kind": kind}), "plan")


def test_every_kind_has_a_record_and_a_validator():
    from shardwright.planner.validate import _CHECKS

    assert set(_CHECKS) == set(KINDS)
    assert [plan_type(kind).__struct_config__.tag for kind in KINDS] == list(KINDS)

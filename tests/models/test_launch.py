"""Facts for launchers: taken where they stand, absent where they do not."""

from __future__ import annotations

import math

import pytest

from shardwright.models import catalog_entry, list_models
from shardwright.models.launch import LaunchFacts, launch_facts


def test_the_facts_of_a_router():
    facts = launch_facts(catalog_entry("deepseek-v3").config)
    assert facts == LaunchFacts(
        activation="silu",
        norm_epsilon=1e-6,
        rotary_base=10000.0,
        router_scores="sigmoid",
        router_groups=8,
        router_groups_per_token=4,
        router_scale=2.5,
        router_bias_correction=True,
    )


def test_a_whole_number_is_a_number():
    assert launch_facts({"rope_theta": 500000}).rotary_base == 500000.0
    assert launch_facts({"rope_parameters": {"rope_theta": 10000, "partial_rotary_factor": 0.5}}) == LaunchFacts(
        rotary_base=10000.0, rotary_fraction=0.5
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, True, "1e-5", [1e-5], None])
def test_what_is_no_number_counts_as_absent(value):
    assert launch_facts({"rms_norm_eps": value, "rope_theta": value}) == LaunchFacts()


def test_the_facts_of_a_wrapper_are_its_text_models():
    assert launch_facts({"text_config": {"hidden_act": "silu"}}).activation == "silu"


@pytest.mark.parametrize("name", list_models())
def test_every_entry_says_its_norm_or_has_only_one(name):
    facts = launch_facts(catalog_entry(name).config)
    architecture = catalog_entry(name).config["architectures"][0]
    defaulted = ("OPT", "MPT", "Whisper")
    assert facts.norm_epsilon is not None or architecture.startswith(defaulted)


@pytest.mark.parametrize(
    ("config", "rates"),
    [
        (catalog_entry("llama-3.1-8b").config, (0.0, 0.0)),
        (catalog_entry("gpt2").config, (0.1, 0.1)),
        ({"model_type": "gpt2", "resid_pdrop": 0.0, "attn_pdrop": 0.2}, (0.0, 0.2)),
        ({"hidden_dropout": 0.05, "attention_dropout": 0}, (0.05, 0.0)),
        ({"hidden_dropout": 2.0, "attention_dropout": -1.0}, (0.0, 0.0)),
    ],
)
def test_dropout_is_what_the_configuration_says_or_its_family_takes(config, rates):
    facts = launch_facts(config)
    assert (facts.hidden_dropout, facts.attention_dropout) == rates

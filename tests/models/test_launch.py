"""Facts for launchers: taken where they stand, absent where they do not."""

from __future__ import annotations

import math

import pytest

from shardwright.models import catalog_entry, list_models
from shardwright.models.launch import DeltaRule, LaunchFacts, RotaryScaling, StateSpace, launch_facts

from .goldens import architecture_of


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
        rotary_scaling=RotaryScaling(
            kind="yarn",
            factor=40.0,
            original_positions=4096,
            beta_fast=32.0,
            beta_slow=1.0,
            magnitude=1.0,
            magnitude_all=1.0,
        ),
    )


def test_the_facts_of_recurrent_layers_are_whole_or_absent():
    config = catalog_entry("nemotron-h-8b").config
    assert launch_facts(config).state_space == StateSpace(heads=128, head_dim=64, state=128, groups=8, kernel=4)
    assert launch_facts({**config, "ssm_state_size": "128"}).state_space is None
    found = launch_facts(catalog_entry("qwen3.5-35b-a3b").config).delta_rule
    assert found == DeltaRule(key_heads=16, value_heads=32, key_dim=128, value_dim=128, kernel=4)


@pytest.mark.parametrize("scaling", [None, [], "yarn", {"type": 3}, {"rope_type": "default"}, {"type": "mrope"}])
def test_positions_that_are_not_stretched_have_no_scaling(scaling):
    assert launch_facts({"rope_scaling": scaling}).rotary_scaling is None


def test_what_only_the_code_of_a_family_says_is_told_too():
    assert launch_facts(catalog_entry("gpt-oss-20b").config).gate_clamp == 7.0
    nemotron = launch_facts(catalog_entry("nemotron-3-nano-30b-a3b").config)
    assert (nemotron.router_scores, nemotron.router_bias_correction) == ("sigmoid", True)


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
    architecture = architecture_of(catalog_entry(name).config)
    defaulted = ("OPT", "MPT", "Whisper")
    assert facts.norm_epsilon is not None or architecture.startswith(defaulted)


@pytest.mark.parametrize(
    ("config", "rates"),
    [
        (catalog_entry("llama-3.1-8b").config, (0.0, 0.0)),
        (catalog_entry("gpt2").config, (0.1, 0.1)),
        (catalog_entry("opt-13b").config, (0.1, 0.0)),
        ({"model_type": "gpt2", "resid_pdrop": 0.0, "attn_pdrop": 0.2}, (0.0, 0.2)),
        ({"hidden_dropout": 0.05, "attention_dropout": 0}, (0.05, 0.0)),
        ({"hidden_dropout": 2.0, "attention_dropout": -1.0}, (0.0, 0.0)),
    ],
)
def test_dropout_is_what_the_configuration_says_or_its_family_takes(config, rates):
    facts = launch_facts(config)
    assert (facts.hidden_dropout, facts.attention_dropout) == rates

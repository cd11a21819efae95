"""The catalog: every count agrees with transformers to the integer, and with what was published."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shardwright.models import (
    ModelError,
    active_parameters,
    catalog_entry,
    list_models,
    model,
    parameters,
    read_config,
)
from shardwright.models.families import ARCHITECTURES, MODEL_TYPES

from .goldens import CLASS, GOLDENS, UNKNOWN, architecture_of, subjects

PARAMETERS = json.loads(GOLDENS.read_text())["parameters"]

# Total and active parameters in units of 10^9 as published; None where no active count is.
PUBLISHED = {
    "bloom-176b": (176.2, None),  # arXiv 2211.05100
    "deepseek-r1": (671, 37),  # arXiv 2501.12948
    "deepseek-v2": (236, 21),  # arXiv 2405.04434
    "deepseek-v2-lite": (15.7, 2.4),
    "deepseek-v3": (671, 37),  # arXiv 2412.19437
    "deepseek-v4-flash": (284, 13),
    "falcon-180b": (179, None),
    "glm-4.5": (353, 33),  # arXiv 2508.06471: 355B with its prediction module
    "glm-5": (744, 40),
    "gpt-neox-20b": (20.6, None),  # arXiv 2204.06745
    "gpt-oss-120b": (116.8, 5.1),  # arXiv 2508.10925, table 1
    "gpt-oss-20b": (20.9, 3.6),
    "gpt3-175b": (174.6, None),  # arXiv 2104.04473, table 1
    "jamba-1.5-large": (398, 94),  # arXiv 2408.12570
    "jamba-v0.1": (52, 12),  # arXiv 2403.19887
    "kimi-k2": (1026, 32),  # arXiv 2507.20534
    "llama-3.1-405b": (405.9, None),
    "llama-4-maverick": (400.7, 16),  # 402 and 17 with the vision tower and the embedding
    "llama-4-scout": (107.8, 16),
    "minimax-text-01": (456, 47),  # arXiv 2501.08313: 45.9 without the head
    "mixtral-8x22b": (141, 39),
    "mixtral-8x7b": (46.7, 12.75),  # 12.9 with the embedding
    "mt-nlg-530b": (529.6, None),  # arXiv 2104.04473, table 1
    "nemotron-3-nano-30b-a3b": (31.6, 3.2),
    "nemotron-3-super-120b-a12b": (120.7, 12),
    "nemotron-3-ultra-550b-a55b": (550, 55),  # arXiv 2606.15007
    "nemotron-4-340b": (341, None),
    "qwen2-57b-a14b": (57.4, 14),
    "qwen3-235b-a22b": (235, 22),  # arXiv 2505.09388
    "qwen3-30b-a3b": (30.5, 3),
    "qwen3.5-35b-a3b": (34.7, 3),
    "qwen3.5-397b-a17b": (396.3, 17),
    "wan2.1-t2v-1.3b": (1.42, None),  # arXiv 2503.20314
    "wan2.1-t2v-14b": (14.3, None),
    "whisper-large-v3": (1.54, None),
}


KNOWN = {name: config for name, config in subjects() if architecture_of(config) not in UNKNOWN}


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_agree_with_transformers_to_the_integer(name):
    assert parameters(read_config(KNOWN[name])) == PARAMETERS[name]


def test_goldens_hold_every_model_that_transformers_knows_and_nothing_else():
    assert set(PARAMETERS) == set(KNOWN)


@pytest.mark.parametrize(("name", "counts"), list(PUBLISHED.items()))
def test_parameters_agree_with_what_was_published(name, counts):
    total, active = counts
    graph = model(name)
    assert parameters(graph) / 1e9 == pytest.approx(total, rel=0.01)
    if active is not None:
        assert active_parameters(graph) / 1e9 == pytest.approx(active, rel=0.04)


@pytest.mark.parametrize(("name", "layers", "hidden", "positions"), [("gpt3-175b", 96, 12288, 2048)])
def test_a_gpt_has_the_parameters_of_narayanan_equation_2_and_a_final_norm(name, layers, hidden, positions):
    vocab = 51200
    equation = 12 * layers * hidden**2 + 13 * layers * hidden + (vocab + positions) * hidden
    assert parameters(model(name)) == equation + 2 * hidden


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "ffn", "biases"),
    [("internlm-7b", 32, 4096, 11008, 4), ("internlm-20b", 60, 5120, 13824, 0)],
)
def test_internlm_which_transformers_lacks_is_counted_by_hand(name, layers, hidden, ffn, biases):
    layer = 4 * hidden**2 + biases * hidden + 3 * hidden * ffn + 2 * hidden
    assert parameters(model(name)) == layers * layer + 2 * 103168 * hidden + hidden


def test_the_catalog_is_wide():
    names = list_models()
    assert len(names) >= 100
    assert list(names) == sorted(names)
    used = {architecture_of(catalog_entry(name).config) for name in names}
    assert {*used, *CLASS} <= set(ARCHITECTURES)
    assert len(used) >= 35


def test_every_architecture_is_compared_with_transformers_under_its_name_or_anothers():
    compared = {architecture_of(config) for _, config in subjects()}
    apart = {"ChatGLMForConditionalGeneration", "ChatGLMModel", "InternLM2ForCausalLM", "RWForCausalLM"}
    renamed = {"MiniMaxM1ForCausalLM", "MiniMaxText01ForCausalLM", "T5WithLMHeadModel", "WanModel"}
    assert set(ARCHITECTURES) == compared | apart | renamed


@pytest.mark.parametrize("name", list_models())
def test_an_entry_names_its_source_and_leaves_nothing_open(name):
    entry = catalog_entry(name)
    assert entry.source
    graph = model(name)
    assert graph.name == name
    assert all(note.startswith("only the ") for note in graph.assumptions)


def test_names_are_found_however_they_are_hyphenated():
    assert model("Llama3.1-70B") is model("llama-3.1-70b")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ModelError, match=r"no model named 'llama-3.1-80b' in the catalog: nearest known: llama-3"):
        model("llama-3.1-80b")
    with pytest.raises(ModelError, match="models list"):
        model("\n" * 1000)


def test_every_model_type_has_a_reader():
    assert set(MODEL_TYPES.values()) <= set(ARCHITECTURES)


def test_importing_reads_no_entry_and_no_family():
    code = (
        "import sys, shardwright.models as m; from shardwright.models import catalog; "
        "print(catalog._entries.cache_info().currsize, 'shardwright.models.families' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "False"]

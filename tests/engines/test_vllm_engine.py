"""A real vLLM engine, started by an exported script on two cores, says the same with tp 2 as with tp 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from shardwright.planner import Layout, Load, ServingJob, estimate_serving
from tests.engines import scripts

pytest.importorskip("vllm", reason="the engine checks run in `make test-engines`")
torch = pytest.importorskip("torch", reason="the engine checks run in `make test-engines`")
transformers = pytest.importorskip("transformers", reason="the engine checks run in `make test-engines`")

PROMPTS = ([5, 6, 7, 8], [11, 3, 999, 42, 17], list(range(100, 160)))
TOKENS = 12
# What a machine without a GPU needs beside the exported options: its own number format, a short context, no compiler.
ON_CPU = ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
CORES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM": f"{sys.executable} {Path(scripts.__file__).with_name('serve.py')}",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with saved random weights and a tokenizer of numbers."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    where = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=256, intermediate_size=688, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4,
        vocab_size=1024, max_position_embeddings=2048, head_dim=64, initializer_range=0.2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.float32).save_pretrained(where)
    words = Tokenizer(WordLevel({str(token): token for token in range(1024)}, unk_token="0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(where)
    return where


def tokens(weights: Path, tp: int, where: Path) -> list[list[int]]:
    """The greedy tokens of every prompt from an engine that the export of a plan with that tp started."""
    job = ServingJob(load=Load(isl=100, osl=20, concurrency=4, rounds=1))
    plan = estimate_serving(str(weights / "config.json"), "dgx-h100:1", job, [("aggregated", Layout(tp=tp), 1)])
    exported = scripts.folder(plan, "vllm", where)
    binding = {"VLLM_CPU_OMP_THREADS_BIND": "|".join(str(core) for core in range(tp))}
    log = where / "engine.log"
    with scripts.serving(exported / "aggregated-0.sh", ON_CPU, CORES | binding, log) as address:
        answers = [
            scripts.completion(
                address, model=str(weights), prompt=prompt, max_tokens=TOKENS, temperature=0, ignore_eos=True,
                return_token_ids=True,
            )
            for prompt in PROMPTS
        ]  # fmt: skip
    assert f"tensor_parallel_size={tp}" in log.read_text()
    return [answer["choices"][0]["token_ids"] for answer in answers]


def test_an_engine_of_two_ranks_says_what_one_rank_and_the_reference_say(weights, tmp_path):
    found = {}
    for tp in (2, 1):
        where = tmp_path / str(tp)
        where.mkdir()
        found[tp] = tokens(weights, tp, where)
    assert found[2] == found[1] == reference(weights)
    assert len({json.dumps(each) for each in found[2]}) == len(PROMPTS)


def reference(weights: Path) -> list[list[int]]:
    """What transformers itself generates."""
    model: Any = transformers.LlamaForCausalLM.from_pretrained(weights, dtype=torch.float32)
    found = []
    for prompt in PROMPTS:
        given = torch.tensor([prompt])
        made = model.generate(given, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
        found.append(made[0, len(prompt) :].tolist())
    return found

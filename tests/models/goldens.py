# ruff: noqa: T201
"""Parameter counts of every catalog model and variant as `transformers` or `diffusers` builds it on the meta device.

`python -m tests.models.goldens` compares our counts with theirs and with the committed goldens; `--write` writes the
goldens anew. It needs torch, transformers and diffusers; the plain test suite reads only the JSON file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardwright.models import catalog_entry, list_models, parameters, read_config

from .variants import VARIANTS

GOLDENS = Path(__file__).with_name("goldens.json")

# A wrapper of several towers is compared by its text model, which is all that the graph holds; some files name a class
# of their own repository, which transformers has under another name.
CLASS = {
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "KimiK25ForConditionalGeneration": "DeepseekV3ForCausalLM",
    "Llama4ForConditionalGeneration": "Llama4ForCausalLM",
    "MPTForCausalLM": "MptForCausalLM",
    "Mistral3ForConditionalGeneration": "MistralForCausalLM",
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
    "Qwen3VLForConditionalGeneration": "Qwen3ForCausalLM",
    "Qwen3VLMoeForConditionalGeneration": "Qwen3MoeForCausalLM",
    "Qwen3_5ForConditionalGeneration": "Qwen3_5ForCausalLM",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3_5MoeForCausalLM",
}

# Not in transformers; test_catalog.py checks them by hand.
UNKNOWN = {"InternLMForCausalLM"}


def subjects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every configuration that is counted, by a name."""
    for name in list_models():
        yield name, catalog_entry(name).config
    for name, config in VARIANTS.items():
        yield f"variant: {name}", config


def architecture_of(config: dict[str, Any]) -> str:
    """The class a configuration names, in transformers' words or in diffusers'."""
    return str(config.get("_class_name") or config["architectures"][0])


def diffusers_count(config: dict[str, Any]) -> int:
    """Parameters of the model that diffusers builds from a configuration."""
    import diffusers
    import torch

    with torch.device("meta"):
        built = getattr(diffusers, architecture_of(config)).from_config(config)
    return sum(weight.numel() for weight in built.parameters())


def transformers_count(config: dict[str, Any]) -> int | None:
    """Parameters of the model that transformers builds from a configuration; None for a class it does not have."""
    import torch
    import transformers

    architecture = architecture_of(config)
    if architecture in UNKNOWN:
        return None
    text = {key: config[key] for key in ("tie_word_embeddings",) if key in config} | config.get("text_config", config)
    kind = getattr(transformers, CLASS.get(architecture, architecture))
    fields = {key: value for key, value in text.items() if key not in ("architectures", "model_type")}
    with torch.device("meta"):
        built = kind(kind.config_class(**{"pad_token_id": 0, **fields}))
    built.tie_weights()
    return sum(weight.numel() for weight in built.parameters())


def check(write: bool) -> int:
    """Compare or write; the number of disagreements."""
    import diffusers
    import transformers

    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    counts: dict[str, int] = {}
    wrong = 0
    committed = {} if write or not GOLDENS.exists() else json.loads(GOLDENS.read_text())["parameters"]
    for name, config in subjects():
        count = (diffusers_count if "_class_name" in config else transformers_count)(config)
        if count is None:
            print(f"{name}: not in transformers")
            continue
        counts[name] = count
        ours = parameters(read_config(config))
        agrees = ours == count and (write or committed.get(name) == count)
        wrong += not agrees
        verdict = "agrees" if agrees else f"WRONG: ours {ours}, golden {committed.get(name)}, off by {ours - count}"
        print(f"{name}: {count} {verdict}", flush=True)
    if write:
        versions = {"transformers": transformers.__version__, "diffusers": diffusers.__version__}
        golden = {**versions, "parameters": counts}
        GOLDENS.write_text(json.dumps(golden, indent=1) + "\n")
    by = f"transformers {transformers.__version__} and diffusers {diffusers.__version__}"
    print(f"{len(counts)} models counted by {by}, {wrong} disagree")
    return wrong


def main() -> None:
    """Exit 1 when any count disagrees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the goldens instead of comparing with them")
    sys.exit(1 if check(parser.parse_args().write) else 0)


if __name__ == "__main__":
    main()

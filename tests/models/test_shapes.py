"""Plain transformers from sizes equal what configurations of the same sizes give."""

from __future__ import annotations

import msgspec
import pytest

from shardwright.models import (
    ModelError,
    TransformerShape,
    active_parameters,
    flops_per_token,
    kv_bytes_per_token,
    model,
    parameters,
    transformer,
)

SHAPES = {
    "gpt3-175b": TransformerShape(
        layers=96,
        hidden=12288,
        heads=96,
        ffn=49152,
        vocab=51200,
        bias=True,
        tied=True,
        learned_positions=True,
        max_positions=2048,
    ),
    "llama-3.1-70b": TransformerShape(
        layers=80, hidden=8192, heads=64, kv_heads=8, ffn=28672, vocab=128256, gated=True, norm="rms"
    ),
    "qwen3-30b-a3b": TransformerShape(
        layers=48,
        hidden=2048,
        heads=32,
        kv_heads=4,
        head_dim=128,
        vocab=151936,
        gated=True,
        norm="rms",
        qk_norm=True,
        experts=128,
        topk=8,
        moe_ffn=768,
    ),
}
SMALL = {"layers": 4, "hidden": 64, "heads": 4, "ffn": 96, "vocab": 160}
SPARSE = {**SMALL, "experts": 8, "topk": 2, "moe_ffn": 32}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_gives_the_same_quantities_as_the_configuration(name):
    ours, catalog = transformer(SHAPES[name], name), model(name)
    assert ours.name == name
    for quantity in (parameters, active_parameters, kv_bytes_per_token, lambda graph: flops_per_token(graph, 4096)):
        assert quantity(ours) == quantity(catalog)


def test_leading_dense_layers_and_a_shared_expert_are_built():
    graph = transformer(TransformerShape(**SPARSE, dense_layers=1, shared_ffn=48, gated=True))
    assert [(run.block.name, run.repeat) for run in graph.runs] == [
        ("embedding", 1),
        ("dense", 1),
        ("moe", 3),
        ("head", 1),
    ]
    assert sum(op.name.startswith("shared_") for op in graph.layer_blocks()[-1].operators) == 3


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({**SMALL, "layers": 0}, "shape.layers must be an integer between 1 and 4096 but got 0"),
        ({**SMALL, "layers": True}, "shape.layers must be an integer between 1 and 4096 but got True"),
        ({**SMALL, "hidden": 10**12}, "shape.hidden must be an integer between 1"),
        ({**SMALL, "hidden": 64.0}, "shape.hidden must be an integer between 1"),
        ({**SMALL, "hidden": 66}, "shape.hidden must be a multiple of heads 4 but got 66"),
        ({**SMALL, "kv_heads": 3}, "shape.heads must be a multiple of kv_heads 3 but got 4"),
        ({**SMALL, "ffn": 0}, "shape.ffn must be an integer between 1"),
        ({**SMALL, "learned_positions": True}, "shape.max_positions is missing"),
        ({**SPARSE, "topk": 9}, "shape.topk must be an integer between 1 and 8 but got 9"),
        ({**SPARSE, "moe_ffn": 0}, "shape.moe_ffn must be an integer between 1"),
        ({**SPARSE, "dense_layers": 5}, "shape.dense_layers must be an integer between 0 and 4 but got 5"),
        ({**SMALL, "shared_ffn": 8}, "shape.shared_ffn must be an integer between 0 and 0 but got 8"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(sizes, text):
    with pytest.raises(ModelError) as caught:
        TransformerShape(**sizes)
    assert str(caught.value).startswith(text)


def test_a_shape_in_a_file_refuses_unknown_fields():
    with pytest.raises(msgspec.ValidationError, match="depth"):
        msgspec.convert({**SMALL, "depth": 4}, TransformerShape)

"""What the folder offers changes only on purpose."""

from __future__ import annotations

from shardwright import models


def test_the_public_names():
    assert models.__all__ == [
        "Attention",
        "Block",
        "Elementwise",
        "Embedding",
        "Entry",
        "Experts",
        "Linear",
        "ModelError",
        "ModelGraph",
        "Norm",
        "Operator",
        "Role",
        "Routing",
        "Run",
        "Scan",
        "Split",
        "Stack",
        "TransformerShape",
        "activation_bytes_per_token",
        "active_parameters",
        "block_activation_bytes_per_token",
        "block_flops_per_token",
        "catalog_entry",
        "cross_kv_bytes_per_token",
        "flops_per_token",
        "kv_bytes_per_token",
        "list_models",
        "model",
        "parameters",
        "read_config",
        "read_routing",
        "routing_from_counts",
        "routing_from_ids",
        "routing_from_transitions",
        "split_tokens",
        "state_bytes_per_sequence",
        "transformer",
    ]

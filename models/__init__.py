"""What runs: operators, model graphs, Hugging Face configurations and the catalog."""

from .catalog import Entry, catalog_entry, list_models, model
from .config import read_config
from .errors import ModelError
from .graph import Block, ModelGraph, Role, Run, Stack
from .operators import Attention, Elementwise, Embedding, Experts, Linear, Norm, Operator, Scan, Split
from .quantities import (
    activation_bytes_per_token,
    active_parameters,
    block_activation_bytes_per_token,
    block_flops_per_token,
    cross_kv_bytes_per_token,
    flops_per_token,
    kv_bytes_per_token,
    parameters,
    state_bytes_per_sequence,
)
from .routing import Routing, routing_from_counts, routing_from_ids, routing_from_transitions, split_tokens
from .routing_files import read_routing
from .shapes import TransformerShape, transformer

__all__ = [
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

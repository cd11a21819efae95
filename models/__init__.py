"""What runs: operators, model graphs, Hugging Face configurations and the catalog."""

from .errors import ModelError
from .graph import Block, ModelGraph, Role, Run
from .operators import Attention, Elementwise, Embedding, Experts, Linear, Norm, Operator, Scan, Split

__all__ = [
    "Attention",
    "Block",
    "Elementwise",
    "Embedding",
    "Experts",
    "Linear",
    "ModelError",
    "ModelGraph",
    "Norm",
    "Operator",
    "Role",
    "Run",
    "Scan",
    "Split",
]

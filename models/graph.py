"""Model graphs: distinct blocks in chain order, each with a repeat count."""

from __future__ import annotations

from typing import Literal

import msgspec

from .operators import Operator

Role = Literal["embedding", "layer", "head", "mtp"]
Stack = Literal["decoder", "encoder"]


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One distinct piece of the chain: an embedding, a layer, a head, or a multi-token-prediction module.

    `parallel` marks a layer whose attention and feed-forward read the same input and are added together.
    """

    name: str
    role: Role
    operators: tuple[Operator, ...]
    parallel: bool = False

    @property
    def parameters(self) -> int:
        """Weights of one instance of the block."""
        return sum(op.parameters for op in self.operators)

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes through in one instance."""
        return sum(op.active_parameters for op in self.operators)


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`repeat` consecutive instances of one block, in one stack of the model."""

    block: Block
    repeat: int = 1
    stack: Stack = "decoder"


class ModelGraph(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model as a chain of runs, first to last: embedding, layers, head, and MTP modules if it has them.

    With an encoder and a decoder the encoder's chain comes first, ends in a `head` of its final norm, and the decoder
    starts with an `embedding` of its own. Operators named `shared_…` are the expert that sees every token.
    `assumptions` lists what the description left open: defaults of the configuration class, towers left out.
    `vocab_size` is 0 for a model without a vocabulary, which generates no tokens. `dropout` says whether training drops
    activations; None where only sizes are known. Between layers a token is `streams` vectors of the hidden size
    (hyper-connections).
    """

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    max_positions: int | None
    tied_embeddings: bool
    runs: tuple[Run, ...]
    assumptions: tuple[str, ...] = ()
    dropout: bool | None = None
    streams: int = 1

    @property
    def stream_size(self) -> int:
        """Elements a token is between layers."""
        return self.streams * self.hidden_size

    @property
    def num_layers(self) -> int:
        """Transformer layers of all stacks, MTP modules left out."""
        return sum(run.repeat for run in self.runs if run.block.role == "layer")

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The distinct blocks, in order of first appearance."""
        return tuple(dict.fromkeys(run.block for run in self.runs))

    def layer_blocks(self) -> tuple[Block, ...]:
        """The block of every transformer layer, in chain order."""
        return tuple(run.block for run in self.runs if run.block.role == "layer" for _ in range(run.repeat))

"""The operators of a layer by name, as the modules that write Megatron-LM's arguments ask for them."""

from __future__ import annotations

from dataclasses import dataclass

from shardwright.models import Attention, Block, Experts, Linear, Operator

from ..errors import InputError

Arguments = list[tuple[str, ...]]


@dataclass(frozen=True)
class Layer:
    """The operators of one layer by name."""

    block: Block

    def __getitem__(self, name: str) -> Operator:
        found = self.get(name)
        if found is None:
            raise InputError(f"export: megatron cannot express a {self.block.name} layer without {name}")
        return found

    def get(self, name: str) -> Operator | None:
        """The operator of that name, if the layer has one."""
        return next((op for op in self.block.operators if op.name == name), None)

    def linear(self, *names: str) -> Linear | None:
        """The first linear operator of those names."""
        found = (self.get(name) for name in names)
        return next((op for op in found if isinstance(op, Linear)), None)

    @property
    def attention(self) -> Attention | None:
        """The attention itself, if this layer attends; an indexer's scores are none."""
        found = self.get("core_attention")
        return found if isinstance(found, Attention) else None

    @property
    def experts(self) -> Experts | None:
        """The routed experts, if this layer has them."""
        return next((op for op in self.block.operators if isinstance(op, Experts)), None)


def pattern(flags: list[int]) -> str:
    """A flag for every layer as Megatron-LM reads it."""
    return "[" + ",".join(map(str, flags)) + "]"


def cannot(what: str, model: str) -> InputError:
    """The refusal of a part of a model."""
    return InputError(f"export: megatron cannot express {what} of {model}")

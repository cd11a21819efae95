"""The plan of an expert placement: which GPUs hold which expert, and what that costs on every workload."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import InvalidPlan
from .base import PlanBase

Objective = Literal["transitions", "fanout", "load", "joint", "minimax"]
SENTENCES = {
    "transitions": "link cost per transition between layers, tokens staying where their last expert ran",
    "joint": "link cost per transition plus load weight times the mean load ratio",
    "load": "fullest GPU over fair share, mean over the layers",
    "fanout": "link cost of reaching every GPU and node that holds one of a token's experts, per layer",
    "minimax": "largest link cost times flow between two GPUs, per token",
}


class WorkloadScore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a placement does on the routing of one workload.

    `held_out` is true for tokens that the plan was not made with. Traffic counts link costs, averaged over the
    transitions between layers; `hops_per_token` adds them up instead. Load ratios are the fullest GPU's load over its
    fair share, per layer; `load_ratio` is their mean. Fan-out is the number of distinct GPUs or nodes that hold the
    experts of one token in one layer. `heaviest_pair` is the largest link cost times flow between two GPUs over all
    layers, per token. A number that the routing cannot tell is null.
    """

    workload: str
    held_out: bool
    tokens: float
    load_ratio: float
    load_ratio_p95: float
    load_ratio_worst: float
    traffic: float | None = None
    hops_per_token: float | None = None
    heaviest_pair: float | None = None
    fanout_gpus: float | None = None
    fanout_nodes: float | None = None


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was read of the routing files: one `array` of an archive, the first `top` ids of every token, and all but
    the last share `held_out` of the tokens."""

    array: str | None = None
    top: int | None = None
    held_out: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise InvalidPlan(f"reading.held_out must be a share from 0 to below 1 but is {self.held_out}")


class Migration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What it takes to come from the placement in force: copies to load, bytes to move, and when that pays.

    `seconds` is the time of the busiest link or GPU; `pays_after_s` how long the new placement must stay in force for
    the saved time to exceed it; null where link speeds are unknown or nothing is saved.
    """

    moved: int
    residents: int
    bytes: float
    seconds: float | None = None
    pays_after_s: float | None = None


class ExpertPlan(PlanBase, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="experts"):
    """`placement[layer][expert]` lists the GPUs that hold the expert, one row per layer of the routing file.

    `moe_layers` are the rows that have routing; the others are dense layers and hold their experts in order. Flow
    `stay` means a token stays where its last expert ran, `home` that it returns to its own GPU after every layer.
    `link_ratio` is the cost of a link between nodes of equal GPUs over one inside; null where links are a topology's.
    """

    objective: Objective
    load_weight: float
    flow: Literal["stay", "home"]
    experts: int
    gpus: int
    gpus_per_node: int
    link_ratio: float | None = None
    redundant: int
    slots: tuple[int, ...]
    moe_layers: tuple[int, ...]
    placement: tuple[tuple[tuple[int, ...], ...], ...]
    scores: tuple[WorkloadScore, ...]
    reading: Reading = Reading()
    migration: Migration | None = None

    def __post_init__(self) -> None:
        if len(self.slots) != self.gpus:
            raise InvalidPlan(f"slots must have one entry for each of {self.gpus} GPUs but has {len(self.slots)}")
        for layer, row in enumerate(self.placement):
            if len(row) != self.experts:
                raise InvalidPlan(f"placement[{layer}] must have {self.experts} experts but has {len(row)}")
            used = [0] * self.gpus
            for expert, gpus in enumerate(row):
                if not gpus:
                    raise InvalidPlan(f"placement[{layer}][{expert}] must name at least one GPU")
                if len(set(gpus)) != len(gpus):
                    raise InvalidPlan(f"placement[{layer}][{expert}] names a GPU twice: {list(gpus)}")
                for gpu in gpus:
                    if not 0 <= gpu < self.gpus:
                        raise InvalidPlan(f"placement[{layer}][{expert}] names GPU {gpu} of {self.gpus}")
                    used[gpu] += 1
            for gpu, (count, most) in enumerate(zip(used, self.slots, strict=True)):
                if count > most:
                    raise InvalidPlan(f"placement[{layer}] puts {count} experts on GPU {gpu}, which has {most} slots")
        if any(not 0 <= layer < len(self.placement) for layer in self.moe_layers):
            raise InvalidPlan(f"moe_layers must be rows of the placement, 0 to {len(self.placement) - 1}")

"""What a user asks of an expert placement."""

from __future__ import annotations

import msgspec

from ..errors import InputError
from ..plan.experts import Objective

METHODS = ("auto", "moetuner", "exflow")
OBJECTIVES = ("transitions", "fanout", "load", "joint", "minimax")
DEFAULT_LOAD_WEIGHT = 10.0
MOST_SLOTS = 65_536


class ExpertRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`transitions` minimizes link cost while tokens stay where their last expert ran, `joint` that plus `load_weight`
    times the load ratio, `load` the load ratio alone, `fanout` the GPUs and nodes a token reaches when it returns home
    after every layer, `minimax` the heaviest pair of GPUs.

    `redundant` slots per layer hold further copies of hot experts. `slots_per_gpu` overrides even shares.
    `expert_groups` is the number of router groups whose experts must share a node. Of several workloads the worst one's
    load counts, unless `workload_weights` average them. `held_out` is the share of tokens kept aside to judge by.
    `method` holds the search to a published program: `moetuner` evens clusters of experts first and then lightens the
    heaviest pair, `exflow` halves the GPUs again and again. `work` is the number of swaps to propose; `certify` spends
    minutes on a tighter bound on traffic.
    """

    objective: Objective = "joint"
    load_weight: float | None = None
    redundant: int = 0
    slots_per_gpu: int | None = None
    expert_groups: int | None = None
    workload_weights: tuple[float, ...] | None = None
    held_out: float = 0.0
    seed: int = 0
    work: int = 60_000_000
    certify: bool = False
    method: str = "auto"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective must be one of {', '.join(OBJECTIVES)} but got {self.objective!r}")
        if self.load_weight is not None and not 0 <= self.load_weight < 1e9:
            raise InputError(f"load-weight must be a number of at least 0 but got {self.load_weight}")
        if self.redundant < 0:
            raise InputError(f"redundant must be at least 0 but got {self.redundant}")
        if self.slots_per_gpu is not None and not 1 <= self.slots_per_gpu <= MOST_SLOTS:
            raise InputError(f"slots-per-gpu must be from 1 to {MOST_SLOTS} but got {self.slots_per_gpu}")
        weights = self.workload_weights
        if weights is not None and not (all(0 <= weight < 1e9 for weight in weights) and sum(weights) > 0):
            raise InputError(f"workload-weight must be numbers of at least 0, one above it, but got {list(weights)}")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held-out must be a share from 0 to below 1 but got {self.held_out}")
        if self.method not in METHODS:
            raise InputError(f"method must be one of {', '.join(METHODS)} but got {self.method!r}")
        if self.work < 1:
            raise InputError(f"work must be at least 1 but got {self.work}")

    @property
    def weight_of_load(self) -> float:
        """The load weight in force: as given, or ten for `joint`, one for `load` and none for the others."""
        if self.load_weight is not None and self.objective not in ("transitions", "load"):
            return self.load_weight
        return {"joint": DEFAULT_LOAD_WEIGHT, "load": 1.0}.get(self.objective, 0.0)

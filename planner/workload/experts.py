"""What a cost model needs to know of an expert placement: the straggler's load and how far tokens are sent."""

from __future__ import annotations

import msgspec

from ..errors import InputError


class ExpertLoad(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The load of the fullest of `ranks` expert ranks over the mean, and the ranks that dispatch sends a token to.

    `reach` is the mean number of distinct ranks that hold one token's experts in a layer, `reach_nodes` that of the
    `nodes` that the ranks are on; None assumes even routing.
    """

    imbalance: float
    ranks: int
    reach: float | None = None
    nodes: int = 1
    reach_nodes: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.imbalance <= 1000:
            raise InputError(f"expert load: imbalance must be from 1 to 1000 but got {self.imbalance}")
        if self.ranks < 1:
            raise InputError(f"expert load: ranks must be at least 1 but got {self.ranks}")
        if self.reach is not None and not 1 <= self.reach <= self.ranks:
            raise InputError(f"expert load: reach must be from 1 to the {self.ranks} ranks but got {self.reach}")
        if not 1 <= self.nodes <= self.ranks:
            raise InputError(f"expert load: nodes must be from 1 to the {self.ranks} ranks but got {self.nodes}")
        if self.reach_nodes is not None and not 1 <= self.reach_nodes <= self.nodes:
            raise InputError(
                f"expert load: reach_nodes must be from 1 to the {self.nodes} nodes but got {self.reach_nodes}"
            )

"""The training job: what one optimizer step must process, and in which precision."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import InputError
from ..strategy import Constraints

Precision = Literal["fp32", "fp16", "bf16", "fp8", "fp4"]
Optimizer = Literal["adam", "adam8bit", "sgd", "sgd-momentum", "muon"]


class TrainingJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One pretraining job: global batch in sequences, sequence length in tokens, number formats, degree constraints.

    Raises InputError when a count is not positive.
    """

    gbs: int
    sequence_length: int
    precision: Precision = "bf16"
    optimizer: Optimizer = "adam"
    master_weight_bytes: int = 4
    moment_bytes: int = 8
    gradient_bytes: int = 4
    token_budget: int | None = None
    constraints: Constraints = Constraints()

    def __post_init__(self) -> None:
        for name in ("gbs", "sequence_length"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"job.{name} must be at least 1 but got {value}")
        if self.token_budget is not None and self.token_budget < 1:
            raise InputError(f"job.token_budget must be at least 1 but got {self.token_budget}")

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimizer step."""
        return self.gbs * self.sequence_length

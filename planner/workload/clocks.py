"""GPUs at a share of their highest clock: how they are named, and what they draw."""

from __future__ import annotations

import math

from ..errors import InputError

IDLE_SHARE = 0.2
CLOCK_EXPONENT = 1.2
LEAST_CLOCK = 0.5
"""An A100 idles at a fifth of its rated power, and draws a fifth less at its peak with its SM clock at 1.1 instead of
1.41 GHz (POLCA, Patel et al., ASPLOS 2024, characterization of inference): 0.8 = 0.2 + 0.8 · 0.78 ** 1.2. DynamoLLM
(Stojkovic et al., HPCA 2025) lowers clocks down to about half of the highest."""


def power_share(clock: float) -> float:
    """Share of its power at full clock that a GPU draws with its clock lowered to a share."""
    return float(IDLE_SHARE + (1 - IDLE_SHARE) * clock**CLOCK_EXPONENT)


def clocked(gpu: str, clock: float) -> str:
    """The name of a GPU type with its clock lowered to a share: `H100-SXM5-80GB@0.8`; at full clock the type itself."""
    return gpu if clock == 1 else f"{gpu}@{clock:g}"


def at_clock(gpu: str) -> tuple[str, float]:
    """The GPU type of such a name and the share of its clock. Raises InputError where the share is none."""
    name, _, share = gpu.partition("@")
    if not share:
        return name, 1.0
    try:
        clock = float(share)
    except ValueError:
        clock = math.nan
    if not LEAST_CLOCK <= clock < 1:
        raise InputError(f"{gpu!r}: the share of the clock behind @ must be from {LEAST_CLOCK:g} to below 1")
    return name, clock


def at_any_clock(gpus: str) -> str:
    """GPU types joined by `+`, whatever clocks they run at."""
    return "+".join(dict.fromkeys(at_clock(part)[0] for part in gpus.split("+")))

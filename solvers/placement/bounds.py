"""Fast lower bounds: no placement can cost less."""

from __future__ import annotations

import numpy as np

from .problem import Floats, Ints, PlacementProblem


def peak_floors(problem: PlacementProblem, weights: Floats) -> Floats:
    """Per layer a floor on the peak for given slot weights: the mean, and the heaviest slot with the lightest company.

    With equal devices every slot is filled (perhaps by an empty one), so the device of the heaviest slot also carries
    at least the lightest others that fill it up.
    """
    unit = problem.per_fair_share
    total = weights.sum(axis=2)
    mean = total * problem.devices / (1.0 / unit).sum() / problem.devices
    ordered = np.sort(weights, axis=2)
    heaviest = ordered[:, :, -1]
    if problem.equal_devices:
        heaviest = heaviest + ordered[:, :, : int(problem.slots[0]) - 1].sum(axis=2)
    floors = np.maximum(mean, heaviest * unit.min()).max(axis=0)
    return np.where(total.sum(axis=0) > 0, floors, 1.0)

"""Changes to a job that a user wonders about: `rate=2`, `price.a10g=0.5`, `tpot=1.5`, `without=l4`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from ..errors import InputError
from ..workload.fleet import FleetJob, Offer, PowerCap, Quota
from .candidates import canonical

FORMS = "rate=2, ttft=1.5, tpot=1.5, price.GPU=0.5 (factors), or without=GPU"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """One change: what, of which GPU type (for prices), and the factor; or a GPU type to do without."""

    text: str
    what: str
    gpu: str = ""
    factor: float = 1.0


def parse_what_if(text: str) -> WhatIf:
    """The change that a text asks for. Raises InputError with the forms there are."""
    name, _, value = text.partition("=")
    what, _, gpu = name.strip().partition(".")
    if what == "without" and value.strip() and not gpu:
        return WhatIf(text, what, value.strip())
    try:
        factor = float(value)
    except ValueError:
        factor = math.nan
    if what not in ("rate", "ttft", "tpot", "e2e", "price") or bool(gpu) != (what == "price"):
        raise InputError(f"--what-if {text!r} must be one of {FORMS}")
    if not (math.isfinite(factor) and factor > 0):
        raise InputError(f"--what-if {text!r} needs a positive factor, such as {FORMS}")
    return WhatIf(text, what, gpu, factor)


def changed(job: FleetJob, what_if: WhatIf) -> FleetJob:
    """The job after the change. Raises InputError where it names a GPU type that is not offered or leaves none."""
    named = canonical(what_if.gpu)
    if what_if.gpu and named not in {canonical(offer.gpu) for offer in job.offers}:
        raise InputError(f"--what-if {what_if.text!r} names {what_if.gpu}, which is none of the offers")
    if what_if.what == "without":
        offers = tuple(offer for offer in job.offers if canonical(offer.gpu) != named)
        tables = tuple(table for table in job.tables if canonical(table.gpu) != named)
        quotas, power = _left(job, named, offers)
        return msgspec.structs.replace(job, offers=offers, tables=tables, quotas=quotas, power=power)
    if what_if.what == "price":
        offers = tuple(
            msgspec.structs.replace(offer, usd_per_hour=offer.usd_per_hour * what_if.factor)
            if canonical(offer.gpu) == named
            else offer
            for offer in job.offers
        )
        return msgspec.structs.replace(job, offers=offers)
    models = []
    for served in job.models:
        if what_if.what == "rate":
            models.append(msgspec.structs.replace(served, rate_per_s=served.rate_per_s * what_if.factor))
            continue
        limit = getattr(served.targets, f"{what_if.what}_s")
        if limit is None:
            raise InputError(f"--what-if {what_if.text!r}: {served.model} has no target for {what_if.what}")
        targets = msgspec.structs.replace(served.targets, **{f"{what_if.what}_s": limit * what_if.factor})
        models.append(msgspec.structs.replace(served, targets=targets))
    return msgspec.structs.replace(job, models=tuple(models))


def _left(job: FleetJob, named: str, offers: tuple[Offer, ...]) -> tuple[tuple[Quota, ...], tuple[PowerCap, ...]]:
    """Quotas and power caps without a GPU type and the regions left empty; one that counted nothing else is gone."""
    known = {offer.region for offer in offers}
    quotas = []
    for quota in job.quotas:
        gpus = tuple(gpu for gpu in quota.gpus if canonical(gpu) != named)
        regions = tuple(region for region in quota.regions if region in known)
        if bool(gpus) == bool(quota.gpus) and bool(regions) == bool(quota.regions):
            quotas.append(msgspec.structs.replace(quota, gpus=gpus, regions=regions))
    power = []
    for cap in job.power:
        regions = tuple(region for region in cap.regions if region in known)
        if bool(regions) == bool(cap.regions):
            power.append(msgspec.structs.replace(cap, regions=regions))
    return tuple(quotas), tuple(power)

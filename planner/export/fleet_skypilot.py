"""SkyPilot: one SkyServe service for every row of a rented fleet, with its replica count."""

from __future__ import annotations

import shlex
from typing import Any

from ..errors import InputError
from .base import Context, Export
from .fleet_units import Unit, engine_words, readable, routing_document, steady_rental, units
from .folder import yaml_text

PORT = 8000
# What SkyPilot's catalogs call accelerators where it is not the first part of their names.
_NAMES = {
    "A100-SXM4-80GB": "A100-80GB", "A100-PCIe-80GB": "A100-80GB", "V100-SXM2-32GB": "V100-32GB",
    "RTX-4090": "RTX4090", "RTX-A6000": "RTXA6000", "RTX-6000-Ada": "RTX6000-Ada",
    "RTX-PRO-6000-Server": "RTXPRO6000",
}  # fmt: skip
_NOTES = (
    "SkyServe routes within a service; what sends each request class to its service (routing.json) is yours",
    "HF_TOKEN must be given where the weights need one",
)


class FleetSkyPilot:
    """`sky serve up`, one file a row of the rental."""

    name = "fleet-skypilot"
    kinds = ("fleet",)
    validated_with = "skypilot 0.14.1"

    def __call__(self, context: Context) -> Export:
        """The services and `routing.json`. Raises InputError for what a service cannot say."""
        found = steady_rental(context, self.name)
        files, notes = {}, list(_NOTES)
        for unit in units(found):
            document, own = self._service(context, unit)
            files[f"{unit.name}.yaml"] = yaml_text(document)
            notes += [*own, *unit.clock_note]
        text = "---\n".join(files.values())
        return Export(text, {**files, "routing.json": readable(routing_document(found))}, tuple(dict.fromkeys(notes)))

    def _service(self, context: Context, unit: Unit) -> tuple[dict[str, Any], list[str]]:
        rented, replica = unit.rented, unit.replica
        if rented.copies > 1 or rented.gpus != replica.gpus:
            raise InputError(
                f"export: {self.name} rents as many GPUs as a replica needs, but {replica.name} comes in instances of "
                f"{rented.gpus}; export it to fleet-kubernetes"
            )
        if rented.tier == "reserved":
            raise InputError(f"export: {self.name} rents on demand or spot, but {replica.name} is reserved")
        words = engine_words(context, replica, self.name, PORT)
        gpu = _NAMES.get(unit.gpu, unit.gpu.partition("-")[0])
        resources: dict[str, Any] = {"accelerators": {gpu: replica.gpus}, "ports": PORT}
        resources["use_spot"] = rented.tier == "spot"
        if rented.region:
            resources["region"] = rented.region
        document = {
            "name": unit.name,
            "service": {"readiness_probe": "/v1/models", "replicas": unit.copies},
            "resources": resources,
            "envs": {"HF_TOKEN": ""} if words else {"HF_TOKEN": "", "SERVE": ""},
            "run": f"exec {shlex.join(words)}\n" if words else 'exec sh -c "$SERVE"\n',
        }
        note = f"the command of {replica.name}, in the variable SERVE: a measured table says nothing of its degrees"
        return document, [] if words else [note]

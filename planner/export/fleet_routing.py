"""Counts and weights of a rented fleet as JSON, for a load balancer of one's own."""

from __future__ import annotations

from .base import Context, Export
from .fleet_units import readable, rental, routing_document


class FleetRouting:
    """`routing.json`: what runs, and which share of every request class goes where, after losses and by hour too."""

    name = "fleet-routing"
    kinds = ("fleet",)
    validated_with = "a form of Shardwright's own"

    def __call__(self, context: Context) -> Export:
        """The document."""
        text = readable(routing_document(rental(context, self.name)))
        return Export(text=text, files={"routing.json": text})

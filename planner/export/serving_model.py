"""What an engine is told of the model: where its weights are, in which format, layers per stage, draft tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shardwright.models import ModelError, catalog_entry

from ..errors import InputError
from ..inputs import CATALOG
from ..plan.serving import PoolPlan, ServingPlan
from .base import Context
from .serving_workers import serving_plan

_PUBLISHED = re.compile(r"Hugging Face config\.json of ([\w.-]+/[\w.-]+)\Z")
_PLAIN = re.compile(r"[A-Za-z0-9._/][A-Za-z0-9._/-]*\Z")

# What `quant_method` of a checkpoint can hold each of our formats.
_METHODS = {
    "fp8": ("fp8", "fbgemm_fp8", "modelopt", "compressed-tensors"),
    "fp8-ffn": ("fbgemm_fp8",),
    "w8a16": ("fp8", "compressed-tensors"),
    "int8": ("compressed-tensors",),
    "w4a16": ("awq", "gptq", "auto-round", "compressed-tensors"),
    "nvfp4": ("modelopt", "modelopt_fp4", "compressed-tensors"),
    "nvfp4-experts": ("modelopt", "modelopt_fp4", "compressed-tensors"),
    "mxfp4": ("mxfp4", "quark"),
}
# Catalog entries keep no quantization_config; these architectures are published quantized.
_PUBLISHED_METHODS = {"DeepseekV3ForCausalLM": "fp8", "GptOssForCausalLM": "mxfp4"}


@dataclass(frozen=True)
class Weights:
    """Where an engine finds the weights: a Hugging Face repository, or a name or path that the user must provide."""

    name: str
    published: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user must arrange for them."""
        if self.published:
            return (f"the plan knows the model by its configuration: {self.name} may be another checkpoint of it",)
        return (f"the plan knows no published weights: {self.name!r} must be where the engine finds them",)


def weights(context: Context, launcher: str) -> Weights:
    """The weights' name. Raises InputError for one that an engine would take for an option."""
    plan = serving_plan(context)
    source = next(record.source for record in plan.inputs if record.role == "model")
    return published_weights(source, plan.model, launcher)


def published_weights(source: str, model: str, launcher: str) -> Weights:
    """The weights of a model by where its configuration came from. Raises InputError for an option's look-alike."""
    found = Weights(model, False)
    if source.startswith(CATALOG):
        try:
            published = _PUBLISHED.match(catalog_entry(source.removeprefix(CATALOG)).source)
        except ModelError:
            published = None
        found = Weights(published[1], True) if published else found
    elif Path(source).name == "config.json":
        found = Weights(str(Path(source).parent), False)
    if found.name.startswith("-") or not found.name.strip():
        raise InputError(f"export: {launcher} takes no model named {found.name!r}: it reads as an option")
    return found


def plain_weights(context: Context, launcher: str) -> Weights:
    """The same where a launcher hands the name to a shell or a template of its own: letters, digits and `._-/`.

    Raises InputError for any other.
    """
    found = weights(context, launcher)
    if not _PLAIN.match(found.name):
        raise InputError(f"export: {launcher} cannot pass on the model name {found.name!r}: letters, digits, '._-/'")
    return found


def loading_format(context: Context, launcher: str, online: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """The engine's word for a format it makes while loading (None: the checkpoint says it), and what to arrange.

    `online` gives that word for the formats the engine can make itself. Raises InputError for a format that neither the
    engine makes nor the plan's checkpoint has.
    """
    plan = serving_plan(context)
    asked = plan.quantization.name.partition("+")[0]
    method = _checkpoint_method(plan)
    if asked == "bf16":
        if method is None:
            return None, ()
        return None, (f"the plan counts bf16 weights but this model is published in {method}: name a bf16 checkpoint",)
    if method in _METHODS.get(asked, ()):
        return None, ()
    if method is None and asked in online:
        return online[asked], ()
    has = f"has {method}" if method else "is not known to have them"
    raise InputError(
        f"export: {launcher} takes {asked} weights from the checkpoint, but that of {plan.model} {has}; plan with the "
        f"config.json of a checkpoint in {asked}"
    )


def plan_notes(plan: ServingPlan, version: str) -> list[str]:
    """What a plan leaves to its user whatever the engine; `version` is the one whose options are written."""
    notes = []
    if plan.engine_version and plan.engine_version != version:
        notes.append(f"the plan was made for {plan.engine} {plan.engine_version}, the options are those of {version}")
    if plan.hours:
        notes.append("the workers are those of the busiest hour; the plan lists how many each other hour needs")
    return notes


def stage_layers(context: Context, pool: PoolPlan) -> tuple[int, ...]:
    """Layers of every pipeline stage: even, what is left over on the middle stages first and on the last one last.

    The first stage also holds the embedding, the last one the vocabulary projection.
    """
    assert context.model is not None
    layers, stages = context.model.num_layers, pool.layout.pp
    most = [layers // stages] * stages
    by_room = sorted(range(stages), key=lambda stage: (stage == stages - 1, stage == 0, stage))
    for stage in by_room[: layers % stages]:
        most[stage] += 1
    return tuple(most)


def draft_tokens(context: Context, launcher: str) -> int:
    """Tokens that the model's own prediction modules propose, 0 without speculation.

    Raises InputError when the model has no such module: a plan names no draft model.
    """
    plan = serving_plan(context)
    if plan.speculation is None:
        return 0
    assert context.model is not None
    if not any(run.block.role == "mtp" for run in context.model.runs):
        raise InputError(
            f"export: {launcher} needs a draft model for speculation, but the plan names none and {plan.model} has no "
            f"multi-token prediction module"
        )
    return plan.speculation.draft_tokens


def _checkpoint_method(plan: ServingPlan) -> str | None:
    document = next(record.document for record in plan.inputs if record.role == "model")
    if not isinstance(document, dict):
        return None
    config = document.get("quantization_config")
    if isinstance(config, dict) and isinstance(config.get("quant_method"), str):
        return str(config["quant_method"])
    architectures = document.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    return _PUBLISHED_METHODS.get(first) if isinstance(first, str) else None

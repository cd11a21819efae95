"""Positions in Megatron-LM's arguments: none, learned, rotary, and how rotary ones are stretched."""

from __future__ import annotations

from shardwright.models import Elementwise, Embedding, ModelGraph
from shardwright.models.launch import LaunchFacts, RotaryScaling

from .megatron_layer import Arguments, Layer, cannot

# What megatron-core fixes: RotaryEmbedding._apply_scaling, and MLATransformerConfig where no argument reaches it.
_LLAMA3 = (1.0, 4.0, 8192)
_LATENT_YARN = (4096, 32.0, 1.0)


def position_arguments(graph: ModelGraph, facts: LaunchFacts) -> Arguments:
    """How tokens know their places. Raises InputError for a kind that Megatron-LM does not have."""
    embedding = next(run.block for run in graph.runs if run.block.role == "embedding")
    if any(isinstance(op, Embedding) and op.name == "position_embedding" for op in embedding.operators):
        return [("--position-embedding-type", "learned_absolute")]
    attending = [layer for block in dict.fromkeys(graph.layer_blocks()) if (layer := Layer(block)).attention]
    turned = [isinstance(layer.get("rope"), Elementwise) for layer in attending]
    if not any(turned):
        return [("--position-embedding-type", "none")]
    if not all(turned):
        raise cannot("positions that are rotary in some layers only", graph.name)
    scaling = facts.rotary_scaling
    core = attending[0].attention
    latent = core is not None and bool(core.latent_features)
    stretched = scaling is not None and scaling.kind == "yarn" and not latent
    found: Arguments = [("--position-embedding-type", "yarn" if stretched else "rope")]
    if facts.rotary_base is not None:
        found += [("--rotary-base", str(round(facts.rotary_base)))]
    if facts.rotary_fraction is not None and facts.rotary_fraction != 1:
        found += [("--rotary-percent", repr(facts.rotary_fraction))]
    return found + (_scaling(graph, scaling, latent) if scaling else [])


def position_notes(graph: ModelGraph, facts: LaunchFacts) -> tuple[str, ...]:
    """What of the stretching of latent attention's positions no argument reaches."""
    scaling = facts.rotary_scaling
    latent = any(layer.attention and layer.attention.latent_features for layer in map(Layer, graph.layer_blocks()))
    if scaling is None or scaling.kind != "yarn" or not latent:
        return ()
    asked = (scaling.original_positions, scaling.beta_fast, scaling.beta_slow)
    if all(each is None or each == fixed for each, fixed in zip(asked, _LATENT_YARN, strict=True)):
        return ()
    return (
        "original positions and betas of YaRN other than 4096, 32 and 1 in latent attention (no argument reaches "
        f"MLATransformerConfig's): the model has {', '.join(map(str, asked))}",
    )


def _scaling(graph: ModelGraph, scaling: RotaryScaling, latent: bool) -> Arguments:
    if scaling.kind == "yarn" and scaling.factor is not None:
        return _yarn(scaling, latent)
    if scaling.kind == "llama3" and scaling.factor is not None and not latent:
        asked = (scaling.low_frequency_factor, scaling.high_frequency_factor, scaling.original_positions)
        if asked != _LLAMA3:
            raise cannot(f"rope_scaling llama3 with {asked} instead of {_LLAMA3}", graph.name)
        return [("--use-rope-scaling",), ("--rope-scaling-factor", repr(scaling.factor))]
    if scaling.kind == "linear" and scaling.factor is not None and scaling.factor.is_integer() and not latent:
        return [("--rotary-seq-len-interpolation-factor", str(int(scaling.factor)))]
    raise cannot(f"rope_scaling {scaling.kind[:40]!r}", graph.name)


def _yarn(scaling: RotaryScaling, latent: bool) -> Arguments:
    found: Arguments = [("--rotary-scaling-factor", repr(scaling.factor))]
    for flag, value in (("--mscale", scaling.magnitude), ("--mscale-all-dim", scaling.magnitude_all)):
        if value is not None:
            found += [(flag, repr(value))]
    if latent:
        return [("--rope-type", "yarn"), *found]
    if scaling.original_positions is not None:
        found += [("--yarn-original-max-position-embeddings", str(scaling.original_positions))]
    for flag, value in (("--yarn-beta-fast", scaling.beta_fast), ("--yarn-beta-slow", scaling.beta_slow)):
        if value is not None:
            found += [(flag, repr(value))]
    return found if scaling.truncated else [*found, ("--no-yarn-correction-range-round-to-int",)]

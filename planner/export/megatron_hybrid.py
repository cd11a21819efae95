"""Models of Mamba, attention and feed-forward layers: the pattern and sizes that `pretrain_hybrid.py` builds from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shardwright.models import Experts, ModelGraph, Operator, Scan
from shardwright.models.launch import LaunchFacts

from ..errors import InputError
from .megatron_layer import Arguments, Layer, cannot

_KERNEL = 4  # MambaMixer's d_conv, which no argument changes


def is_hybrid(graph: ModelGraph) -> bool:
    """Whether a model has state-space layers."""
    return any(op.name == "mamba_scan" for block in graph.layer_blocks() for op in block.operators)


def layer_pattern(graph: ModelGraph, stages: Sequence[tuple[int, str]]) -> str:
    """One letter a branch, `|` between virtual stages, `/` before every prediction module (hybrid_layer_allocation.py).

    `stages` gives the layers of every virtual stage and what else it holds. Raises InputError for a layer without a
    letter, or prediction modules in another stage than the last.
    """
    letters = [_letters(block.operators, graph) for block in graph.layer_blocks()]
    parts, start = [], 0
    for count, _ in stages:
        parts.append("".join(letters[start : start + count]))
        start += count
    if any("m" in extra for _, extra in stages[:-1]):
        raise cannot("prediction modules before the last stage", graph.name)
    modules = [run for run in graph.runs if run.block.role == "mtp"]
    return "|".join(parts) + "".join(("/" + _letters(run.block.operators, graph)) * run.repeat for run in modules)


def hybrid_arguments(graph: ModelGraph, facts: LaunchFacts, stages: Sequence[tuple[int, str]]) -> Arguments:
    """The pattern and the sizes of the Mamba layers. Raises InputError for a Mamba that Megatron-LM does not have."""
    sizes = facts.state_space
    mixers = {layer for layer in map(Layer, graph.layer_blocks()) if layer.get("mamba_scan")}
    if sizes is None or any(layer.get("mamba_inner_norm") is None for layer in mixers):
        raise cannot("state-space layers other than Mamba 2", graph.name)
    inner = sizes.heads * sizes.head_dim
    convolved = inner + 2 * sizes.groups * sizes.state
    for layer in mixers:
        into, scan = layer.linear("mamba_in"), layer["mamba_scan"]
        assert isinstance(scan, Scan)
        if into is None or into.out_features != inner + convolved + sizes.heads or scan.features != inner:
            raise cannot("Mamba layers of different sizes", graph.name)
        weights = convolved * (sizes.kernel + 1) + 3 * sizes.heads
        if sizes.kernel != _KERNEL or scan.extra_parameters != weights:
            raise cannot(f"a convolution other than one of {_KERNEL} taps with a bias", graph.name)
    return [
        ("--hybrid-layer-pattern", layer_pattern(graph, stages)),
        ("--mamba-num-heads", str(sizes.heads)),
        ("--mamba-head-dim", str(sizes.head_dim)),
        ("--mamba-state-dim", str(sizes.state)),
        ("--mamba-num-groups", str(sizes.groups)),
    ]


def _letters(operators: Iterable[Operator], graph: ModelGraph) -> str:
    """A letter for every branch that is added to the residual stream."""
    found, branch = "", set[str]()
    for operator in operators:
        branch.add("experts" if isinstance(operator, Experts) else operator.name)
        if operator.name.endswith("_residual"):
            found += _letter(branch, graph)
            branch = set()
    return found


def _letter(branch: set[str], graph: ModelGraph) -> str:
    if "mamba_scan" in branch:
        return "M"
    if "core_attention" in branch:
        return "+" if "kv_down" in branch else "*"
    if "experts" in branch:
        return "E"
    if "mlp_down" in branch:
        return "-"
    raise InputError(f"export: megatron has no letter for a layer of {graph.name} with {', '.join(sorted(branch))}")

"""Decoders that mix attention with recurrent layers: Nemotron-H, Jamba, MiniMax-01, Qwen3-Next, Qwen 3.5."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from msgspec.structs import replace

from ..blocks import FeedForward, LayerFrame, Mixture
from ..fields import MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, Fields
from ..graph import Block, ModelGraph
from ..operators import Operator
from ..recurrent import GatedDelta, LightningAttention, Mamba1, Mamba2
from .common import LAYERS, Sizes, read_sizes, tied
from .deepseek import prediction_module
from .experts import EXPERTS, read_gated_mixture, read_sparse_layers, read_topk

LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
NEMOTRON_KINDS = {
    "mamba": "mamba",
    "linear_attention": "mamba",
    "attention": "attention",
    "full_attention": "attention",
    "mlp": "mlp",
    "moe": "moe",
}


def nemotron_h(fields: Fields, name: str) -> ModelGraph:
    """Nemotron-H and Nemotron 3: one branch per layer (Mamba 2, attention, feed-forward or mixture), by a pattern."""
    kinds = _nemotron_kinds(fields, "hybrid_override_pattern", "layers_block_type")
    declared = fields.optional_count(*LAYERS, high=MAX_LAYERS)
    if declared is not None and declared != len(kinds):
        raise fields.refuse(LAYERS[0], f"must be the {len(kinds)} layers of the pattern")
    sizes = read_sizes(_with_layers(fields, len(kinds)), head_dim=128)
    modules = fields.count("num_nextn_predict_layers", low=0, high=MAX_LAYERS, default=0)
    predicting: tuple[str, ...] = ()
    if modules:
        predicting = _nemotron_kinds(fields, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    frame = LayerFrame(hidden=sizes.hidden)
    branches = {kind: frame.branch(kind, _nemotron_mixer(fields, sizes, kind)) for kind in {*kinds, *predicting}}
    blocks = {kind: Block(name=kind, role="layer", operators=branch) for kind, branch in branches.items()}
    module: Sequence[Operator] = tuple(chain.from_iterable(branches[kind] for kind in predicting))
    mtp = [prediction_module(sizes.hidden, sizes.vocab, module)] * modules
    around = sizes.model_frame(fields, name, tied(fields, False))
    return around.model([blocks[kind] for kind in kinds], mtp)


def jamba(fields: Fields, name: str) -> ModelGraph:
    """Jamba: attention in one layer of `attn_layer_period`, a mixture in one of `expert_layer_period`."""
    sizes = read_sizes(fields)
    experts = fields.count("num_experts", high=MAX_EXPERTS)
    width = fields.count("intermediate_size")
    dense = FeedForward(hidden=sizes.hidden, ffn=width, gated=True).operators()
    mixture: tuple[Operator, ...] = dense
    if experts > 1:
        mixture = Mixture(hidden=sizes.hidden, experts=experts, topk=read_topk(fields, experts), ffn=width).operators()
    mixers = {
        True: ("attention", replace(sizes.attention(), rope=False).operators()),
        False: ("mamba", _jamba_mamba(fields, sizes.hidden).operators()),
    }
    attends = _periodic(fields, "attn", sizes.layers)
    sparse = _periodic(fields, "expert", sizes.layers)
    blocks = {
        (attending, is_sparse): sizes.frame().layer(
            f"{mixers[attending][0]}_{'moe' if is_sparse and experts > 1 else 'dense'}",
            mixers[attending][1],
            mixture if is_sparse else dense,
        )
        for attending in (True, False)
        for is_sparse in (True, False)
    }
    layers = [blocks[pair] for pair in zip(attends, sparse, strict=True)]
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def minimax(fields: Fields, name: str) -> ModelGraph:
    """MiniMax-01 and M1: lightning attention in most layers, softmax in the rest; every layer a mixture."""
    sizes = read_sizes(fields)
    if fields.has("layer_types"):
        words = fields.words("layer_types", ("full_attention", "linear_attention"), sizes.layers)
        softmax = [word == "full_attention" for word in words]
    else:
        softmax = [kind == 1 for kind in fields.counts("attn_type_list", low=0, high=1, length=sizes.layers)]
    experts = fields.count(*EXPERTS, high=MAX_EXPERTS)
    mixture = Mixture(
        hidden=sizes.hidden,
        experts=experts,
        topk=read_topk(fields, experts),
        ffn=fields.count("intermediate_size"),
        shared_ffn=fields.count("shared_intermediate_size", low=0, default=0),
    ).operators()
    lightning = LightningAttention(hidden=sizes.hidden, heads=sizes.heads, head_dim=sizes.head_dim)
    blocks = {
        True: sizes.frame().layer("attention_moe", sizes.attention().operators(), mixture),
        False: sizes.frame().layer("lightning_moe", lightning.operators(), mixture),
    }
    layers = [blocks[is_softmax] for is_softmax in softmax]
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def qwen3_next(fields: Fields, name: str) -> ModelGraph:
    """Qwen3-Next: the gated delta rule in three layers of four, gated attention in the fourth; mixtures."""
    sizes = read_sizes(fields, head_dim=256)
    return _delta_model(fields, name, sizes, read_sparse_layers(fields, sizes.layers))


def qwen3_5(fields: Fields, name: str) -> ModelGraph:
    """Qwen 3.5: as Qwen3-Next, with dense layers."""
    sizes = read_sizes(fields, head_dim=256)
    return _delta_model(fields, name, sizes, (False,) * sizes.layers)


def qwen3_5_moe(fields: Fields, name: str) -> ModelGraph:
    """Qwen 3.5 MoE: as Qwen3-Next, a mixture in every layer."""
    sizes = read_sizes(fields, head_dim=256)
    return _delta_model(fields, name, sizes, (True,) * sizes.layers)


def _delta_model(fields: Fields, name: str, sizes: Sizes, sparse: Sequence[bool]) -> ModelGraph:
    bias = fields.flag("attention_bias", default=False)
    attention = replace(
        sizes.attention(),
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="head",
        gate_features=sizes.heads * sizes.head_dim,
    ).operators()
    delta = GatedDelta(
        hidden=sizes.hidden,
        key_heads=fields.count("linear_num_key_heads", high=MAX_HEADS),
        key_dim=fields.count("linear_key_head_dim"),
        value_heads=fields.count("linear_num_value_heads", high=MAX_HEADS),
        value_dim=fields.count("linear_value_head_dim"),
        kernel=fields.count("linear_conv_kernel_dim"),
    ).operators()
    full = _full_layers(fields, sizes.layers)
    feed_forwards: dict[bool, Sequence[Operator]] = {}
    if any(sparse):
        shared = fields.count("shared_expert_intermediate_size", low=0)
        feed_forwards[True] = read_gated_mixture(fields, sizes.hidden, shared).operators()
    if not all(sparse):
        width = fields.count("intermediate_size")
        feed_forwards[False] = FeedForward(hidden=sizes.hidden, ffn=width, gated=True).operators()
    blocks = {
        (is_full, is_sparse): sizes.frame().layer(
            f"{'attention' if is_full else 'delta'}_{'moe' if is_sparse else 'dense'}",
            attention if is_full else delta,
            feed_forward,
        )
        for is_full in (True, False)
        for is_sparse, feed_forward in feed_forwards.items()
    }
    layers = [blocks[pair] for pair in zip(full, sparse, strict=True)]
    return sizes.model_frame(fields, name, tied(fields, False)).model(layers)


def _nemotron_kinds(fields: Fields, pattern: str, words: str) -> tuple[str, ...]:
    """Layer kinds, spelled as one letter each or as a list of words."""
    letters = fields.document.get(pattern)
    if letters is None:
        length = len(fields.sequence(words))
        return tuple(NEMOTRON_KINDS[word] for word in fields.words(words, tuple(NEMOTRON_KINDS), length))
    if not isinstance(letters, str) or not 0 < len(letters) <= MAX_LAYERS or not set(letters) <= set(LETTERS):
        raise fields.refuse(pattern, f"must be 1 to {MAX_LAYERS} letters of {' '.join(LETTERS)}")
    return tuple(LETTERS[letter] for letter in letters)


def _with_layers(fields: Fields, layers: int) -> Fields:
    """The same fields with the layers of the pattern."""
    known = Fields({**fields.document, LAYERS[0]: layers}, fields.architecture, fields.path)
    known.assumptions = fields.assumptions
    return known


def _nemotron_mixer(fields: Fields, sizes: Sizes, kind: str) -> Sequence[Operator]:
    mlp_bias = fields.flag("mlp_bias", default=False)
    if kind == "attention":
        return replace(sizes.attention(), rope=False).operators()
    if kind == "mlp":
        width = fields.count("intermediate_size")
        return FeedForward(hidden=sizes.hidden, ffn=width, gated=False, bias=mlp_bias).operators()
    if kind == "moe":
        experts = fields.count("n_routed_experts", "num_local_experts", "num_experts", high=MAX_EXPERTS)
        return Mixture(
            hidden=sizes.hidden,
            experts=experts,
            topk=read_topk(fields, experts),
            ffn=fields.count("moe_intermediate_size"),
            gated=False,
            dense_bias=mlp_bias,
            shared_ffn=fields.count("moe_shared_expert_intermediate_size", low=0),
            expert_hidden=fields.optional_count("moe_latent_size"),
        ).operators()
    return Mamba2(
        hidden=sizes.hidden,
        heads=fields.count("mamba_num_heads", high=MAX_HEADS),
        head_dim=fields.count("mamba_head_dim"),
        state=fields.count("ssm_state_size"),
        groups=fields.count("n_groups", "mamba_n_groups"),
        kernel=fields.count("conv_kernel", "mamba_d_conv"),
        conv_bias=fields.flag("use_conv_bias", "mamba_conv_bias", default=True),
        bias=fields.flag("use_bias", default=False),
    ).operators()


def _jamba_mamba(fields: Fields, hidden: int) -> Mamba1:
    automatic = fields.document.get("mamba_dt_rank") == "auto"
    return Mamba1(
        hidden=hidden,
        inner=hidden * fields.count("mamba_expand"),
        state=fields.count("mamba_d_state"),
        rank=-(-hidden // 16) if automatic else fields.count("mamba_dt_rank"),
        kernel=fields.count("mamba_d_conv"),
        conv_bias=fields.flag("mamba_conv_bias", default=True),
        bias=fields.flag("mamba_proj_bias", default=False),
    )


def _periodic(fields: Fields, what: str, layers: int) -> list[bool]:
    period = fields.count(f"{what}_layer_period", high=MAX_LAYERS)
    offset = fields.count(f"{what}_layer_offset", low=0, high=period - 1)
    return [index % period == offset for index in range(layers)]


def _full_layers(fields: Fields, layers: int) -> list[bool]:
    if fields.has("layer_types"):
        words = fields.words("layer_types", ("full_attention", "linear_attention"), layers)
        return [word == "full_attention" for word in words]
    every = fields.count("full_attention_interval", high=MAX_LAYERS, default=4)
    return [(index + 1) % every == 0 for index in range(layers)]

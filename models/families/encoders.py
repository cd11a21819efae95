"""Models with an encoder: BERT, T5, Whisper."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..attention import GroupedAttention
from ..blocks import FeedForward, LayerFrame, norm, runs_of
from ..fields import MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, Fields
from ..graph import Block, ModelGraph, Run
from ..operators import Attention, Elementwise, Embedding, Linear, Operator
from .common import read_sizes, tied


def bert(fields: Fields, name: str) -> ModelGraph:
    """BERT with its masked-language head: norms after each addition, learned positions, a transform before the head."""
    sizes = read_sizes(fields, multi_head=True)
    hidden = sizes.hidden
    positions = fields.count("max_position_embeddings", high=MAX_POSITIONS)
    is_tied = tied(fields, True)
    embedding = Block(
        name="embedding",
        role="embedding",
        operators=(
            Embedding(name="token_embedding", rows=sizes.vocab, features=hidden),
            Embedding(name="position_embedding", rows=positions, features=hidden, split="replicated"),
            Embedding(name="type_embedding", rows=fields.count("type_vocab_size"), features=hidden, split="replicated"),
            norm("embedding_norm", hidden, bias=True),
        ),
    )
    attention = replace(sizes.attention(), qkv_bias=True, output_bias=True, rope=False, causal=False)
    feed_forward = FeedForward(hidden=hidden, ffn=fields.count("intermediate_size"), gated=False, bias=True)
    frame = LayerFrame(hidden=hidden, norm_bias=True, norms="outer")
    layer = frame.layer("dense", attention.operators(), feed_forward.operators())
    head = Block(
        name="head",
        role="head",
        operators=(
            Linear(name="head_transform", in_features=hidden, out_features=hidden, split="replicated", bias=True),
            Elementwise(name="head_activation", in_features=hidden, out_features=hidden, split="sequence"),
            norm("final_norm", hidden, bias=True),
            Linear(
                name="lm_head", in_features=hidden, out_features=sizes.vocab, split="vocab", bias=True, tied=is_tied
            ),
        ),
    )
    return ModelGraph(
        name=name or fields.architecture,
        architecture=fields.architecture,
        hidden_size=hidden,
        vocab_size=sizes.vocab,
        max_positions=positions,
        tied_embeddings=is_tied,
        runs=(
            Run(block=embedding, stack="encoder"),
            Run(block=layer, repeat=sizes.layers, stack="encoder"),
            Run(block=head, stack="encoder"),
        ),
        assumptions=tuple(fields.assumptions),
    )


def t5(fields: Fields, name: str) -> ModelGraph:
    """T5: RMSNorm, no biases, relative positions learned in the first layer of each stack, one table for all ends."""
    hidden = fields.count("d_model")
    heads = fields.count("num_heads", high=MAX_HEADS)
    vocab = fields.count("vocab_size", high=MAX_VOCAB)
    buckets = fields.count("relative_attention_num_buckets", default=32)
    n_encoder = fields.count("num_layers", high=MAX_LAYERS)
    n_decoder = fields.count("num_decoder_layers", high=MAX_LAYERS, default=n_encoder)
    is_tied = tied(fields, True)
    kinds = ("relu", "gelu", "gated-gelu", "gated-silu")
    gated = fields.choice("feed_forward_proj", kinds, default="relu").startswith("gated")
    attention = GroupedAttention(hidden=hidden, heads=heads, kv_heads=heads, head_dim=fields.count("d_kv"), rope=False)
    feed_forward = FeedForward(hidden=hidden, ffn=fields.count("d_ff"), gated=gated).operators()
    frame = LayerFrame(hidden=hidden)

    def stack(kind: str, layers: int) -> list[Block]:
        """The first layer holds the relative positions of all."""
        crossing = cross_attention(attention) if kind == "decoder" else ()
        blocks = []
        for suffix, extra in (("_first", buckets * heads), ("", 0)):
            own = replace(attention, causal=kind == "decoder", extra_parameters=extra).operators()
            blocks.append(_stacked(frame, f"{kind}{suffix}", own, crossing, feed_forward))
        return [blocks[0], *[blocks[1]] * (layers - 1)]

    table = Embedding(name="token_embedding", rows=vocab, features=hidden)
    head = Linear(name="lm_head", in_features=hidden, out_features=vocab, split="vocab", tied=is_tied)
    runs = (
        Run(block=Block(name="embedding", role="embedding", operators=(table,)), stack="encoder"),
        *runs_of(stack("encoder", n_encoder), "encoder"),
        Run(block=Block(name="encoder_norm", role="head", operators=(norm("final_norm", hidden),)), stack="encoder"),
        Run(block=Block(name="decoder_embedding", role="embedding", operators=(replace(table, tied=True),))),
        *runs_of(stack("decoder", n_decoder)),
        Run(block=Block(name="head", role="head", operators=(norm("final_norm", hidden), head))),
    )
    return ModelGraph(
        name=name or fields.architecture,
        architecture=fields.architecture,
        hidden_size=hidden,
        vocab_size=vocab,
        max_positions=fields.optional_count("n_positions", high=MAX_POSITIONS),
        tied_embeddings=is_tied,
        runs=runs,
        assumptions=tuple(fields.assumptions),
    )


def whisper(fields: Fields, name: str) -> ModelGraph:
    """Whisper: two convolutions over the spectrogram, an encoder with fixed positions, a decoder with learned ones."""
    hidden = fields.count("d_model")
    vocab = fields.count("vocab_size", high=MAX_VOCAB)
    target = fields.count("max_target_positions", high=MAX_POSITIONS)
    is_tied = tied(fields, True)
    frame = LayerFrame(hidden=hidden, norm_bias=True)
    final = norm("final_norm", hidden, bias=True)
    embedding = Block(name="encoder_embedding", role="embedding", operators=_spectrogram(fields, hidden))
    tables = (
        Embedding(name="token_embedding", rows=vocab, features=hidden),
        Embedding(name="position_embedding", rows=target, features=hidden, split="replicated"),
    )
    head = Linear(name="lm_head", in_features=hidden, out_features=vocab, split="vocab", tied=is_tied)
    runs = (
        Run(block=embedding, stack="encoder"),
        Run(
            block=_whisper_layer(fields, frame, "encoder"),
            repeat=fields.count("encoder_layers", high=MAX_LAYERS),
            stack="encoder",
        ),
        Run(block=Block(name="encoder_norm", role="head", operators=(final,)), stack="encoder"),
        Run(block=Block(name="decoder_embedding", role="embedding", operators=tables)),
        Run(
            block=_whisper_layer(fields, frame, "decoder"),
            repeat=fields.count("decoder_layers", high=MAX_LAYERS),
        ),
        Run(block=Block(name="head", role="head", operators=(final, head))),
    )
    return ModelGraph(
        name=name or fields.architecture,
        architecture=fields.architecture,
        hidden_size=hidden,
        vocab_size=vocab,
        max_positions=target,
        tied_embeddings=is_tied,
        runs=runs,
        assumptions=tuple(fields.assumptions),
    )


def cross_attention(attention: GroupedAttention) -> tuple[Operator, ...]:
    """Attention to the encoder's output: Q from the target's tokens, K and V once per token of the source."""
    q, kv = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    core = Attention(
        name="cross_attention",
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        qk_head_dim=attention.head_dim,
        v_head_dim=attention.head_dim,
        causal=False,
        cross=True,
    )
    return (
        Linear(name="cross_q", in_features=attention.hidden, out_features=q, split="column", bias=attention.qkv_bias),
        Linear(
            name="cross_kv",
            in_features=attention.hidden,
            out_features=2 * kv,
            split="column",
            bias=attention.qkv_bias,
            shared_input=True,
            source=True,
            kv_features=2 * kv,
            kv_heads=attention.kv_heads,
        ),
        core,
        Linear(
            name="cross_output",
            in_features=q,
            out_features=attention.hidden,
            split="row",
            bias=attention.output_bias,
        ),
    )


def _stacked(
    frame: LayerFrame,
    name: str,
    own: Sequence[Operator],
    crossing: Sequence[Operator],
    feed_forward: Sequence[Operator],
) -> Block:
    cross = frame.branch("cross", crossing) if crossing else ()
    operators = (*frame.branch("attention", own), *cross, *frame.branch("mlp", feed_forward))
    return Block(name=name, role="layer", operators=operators)


def _spectrogram(fields: Fields, hidden: int) -> tuple[Operator, ...]:
    """Convolutions of width 3 as products; the first runs twice per position, as the second has stride 2."""
    mel = 3 * fields.count("num_mel_bins")
    rows = fields.count("max_source_positions", high=MAX_POSITIONS)
    first = Linear(name="conv1", in_features=mel, out_features=hidden, split="replicated", bias=True)
    return (
        first,
        replace(first, name="conv1_again", tied=True, bias=False),
        Elementwise(name="conv1_activation", in_features=2 * hidden, out_features=2 * hidden, split="sequence"),
        Linear(name="conv2", in_features=3 * hidden, out_features=hidden, split="replicated", bias=True),
        Elementwise(name="conv2_activation", in_features=hidden, out_features=hidden, split="sequence"),
        Embedding(name="position_embedding", rows=rows, features=hidden, split="replicated"),
    )


def _whisper_layer(fields: Fields, frame: LayerFrame, kind: str) -> Block:
    hidden = frame.hidden
    heads = fields.count(f"{kind}_attention_heads", high=MAX_HEADS)
    attention = GroupedAttention(
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=fields.divides(f"{kind}_attention_heads", heads, "d_model", hidden),
        qkv_bias=True,
        output_bias=True,
        rope=False,
        causal=kind == "decoder",
    )
    width = fields.count(f"{kind}_ffn_dim")
    feed_forward = FeedForward(hidden=hidden, ffn=width, gated=False, bias=True).operators()
    crossing = without_key_bias(cross_attention(attention), hidden) if kind == "decoder" else ()
    return _stacked(frame, kind, without_key_bias(attention.operators(), hidden), crossing, feed_forward)


def without_key_bias(operators: Sequence[Operator], hidden: int) -> tuple[Operator, ...]:
    """The same with K projected by itself and without a bias, as Whisper does."""
    changed: list[Operator] = []
    for op in operators:
        if isinstance(op, Linear) and op.kv_heads:
            keys = replace(
                op,
                name=op.name.replace("qkv", "k").replace("kv", "k"),
                out_features=hidden,
                kv_features=hidden,
                bias=False,
                shared_input=True,
            )
            rest = replace(
                op,
                name=op.name.replace("qkv", "qv").replace("kv", "v"),
                out_features=op.out_features - hidden,
                kv_features=hidden,
            )
            changed += [rest, keys]
        else:
            changed.append(op)
    return tuple(changed)

"""A Llama in plain PyTorch, whole or one stage of it, from its Hugging Face configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; heads are counted from what its projections put out."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, self.width = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
        self.wq = nn.Linear(hidden, config["num_attention_heads"] * self.width, bias=False)
        self.wk = nn.Linear(hidden, config["num_key_value_heads"] * self.width, bias=False)
        self.wv = nn.Linear(hidden, config["num_key_value_heads"] * self.width, bias=False)
        self.wo = nn.Linear(config["num_attention_heads"] * self.width, hidden, bias=False)
        self.theta = config["rope_theta"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, self.width)).transpose(1, 2) for part in (self.wq(x), self.wk(x), self.wv(x))
        )
        q, k = self.rotated(q), self.rotated(k)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.wo(out.transpose(1, 2).flatten(2))

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        half = self.width // 2
        angle = torch.arange(x.shape[-2])[:, None] / self.theta ** (torch.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


class FeedForward(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.w1 = nn.Linear(config["hidden_size"], config["intermediate_size"], bias=False)
        self.w3 = nn.Linear(config["hidden_size"], config["intermediate_size"], bias=False)
        self.w2 = nn.Linear(config["intermediate_size"], config["hidden_size"], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        self.mlp = FeedForward(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """The layers of a range, with the embedding before them and the norm and head behind where asked for.

    Every parameter is drawn in the order of the whole model, so that stages hold what the whole model holds.
    """

    def __init__(
        self, config: dict[str, Any], layers: range | None = None, holds: tuple[str, ...] = ("embedding", "head")
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        hidden = config["hidden_size"]
        embedding = nn.Embedding(config["vocab_size"], hidden)
        whole = [Layer(config) for _ in range(config["num_hidden_layers"])]
        head = nn.Linear(hidden, config["vocab_size"], bias=False)
        kept = range(len(whole)) if layers is None else layers
        self.embedding = embedding if "embedding" in holds else None
        self.layers = nn.ModuleDict({str(index): whole[index] for index in kept})
        self.norm = nn.RMSNorm(hidden, eps=config["rms_norm_eps"]) if "head" in holds else None
        self.head = head if "head" in holds else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        for layer in self.layers.values():
            x = layer(x)
        return x if self.head is None else self.head(self.norm(x))


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of every token."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batch(config: dict[str, Any], step: int, gbs: int, sequence: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of a step and those that follow them, the same on every machine: each follows from the one before."""
    draw = torch.Generator().manual_seed(1000 + step)
    tokens = [torch.randint(config["vocab_size"], (gbs,), generator=draw)]
    for _ in range(sequence):
        tokens.append((5 * tokens[-1] + 3) % config["vocab_size"])
    found = torch.stack(tokens, dim=1)
    return found[:, :-1], found[:, 1:]

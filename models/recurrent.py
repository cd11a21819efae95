"""Builders of mixers that keep a state instead of a cache: Mamba 1 and 2, lightning attention, gated delta rule.

Of each recurrence the arithmetic of the sequential form is counted: per element of the state, one multiply-add each
for its decay, its input and its output; chunked kernels do more work on faster units.
"""

from __future__ import annotations

import msgspec

from .operators import Elementwise, Linear, Norm, Operator, Scan

FLOPS_PER_STATE_ELEMENT = 6


class Mamba1(msgspec.Struct, frozen=True, kw_only=True):
    """A selective state space with a state per channel: Gu and Dao, "Mamba" (arXiv 2312.00752), section 3.

    Jamba norms the step size and both projections of the state (arXiv 2403.19887, section 3.2).
    """

    hidden: int
    inner: int
    state: int
    rank: int
    kernel: int
    conv_bias: bool
    bias: bool

    def operators(self) -> tuple[Operator, ...]:
        """Projection, selection, recurrence, gate, projection."""
        inner, state = self.inner, self.state
        extra = inner * (self.kernel + self.conv_bias) + inner * state + inner
        return (
            Linear(name="mamba_in", in_features=self.hidden, out_features=2 * inner, split="column", bias=self.bias),
            Linear(name="mamba_select", in_features=inner, out_features=self.rank + 2 * state, split="row"),
            Norm(name="step_norm", features=self.rank, weight_features=self.rank),
            Norm(name="b_norm", features=state, weight_features=state),
            Norm(name="c_norm", features=state, weight_features=state),
            Linear(name="mamba_step", in_features=self.rank, out_features=inner, split="column", bias=True),
            Scan(
                name="mamba_scan",
                features=inner,
                state_elements=inner * (state + self.kernel - 1),
                scan_flops_per_token=FLOPS_PER_STATE_ELEMENT * inner * state + 2 * inner * self.kernel,
                saved=2 * inner + 2 * state,
                extra_parameters=extra,
            ),
            Elementwise(name="mamba_gate", in_features=2 * inner, out_features=inner, split="heads"),
            Linear(name="mamba_out", in_features=inner, out_features=self.hidden, split="row", bias=self.bias),
        )


class Mamba2(msgspec.Struct, frozen=True, kw_only=True):
    """A state space with a scalar decay per head: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), section 7."""

    hidden: int
    heads: int
    head_dim: int
    state: int
    groups: int
    kernel: int
    conv_bias: bool
    bias: bool

    def operators(self) -> tuple[Operator, ...]:
        """Projection, convolution and recurrence, gate, norm, projection."""
        inner = self.heads * self.head_dim
        convolved = inner + 2 * self.groups * self.state
        return (
            Linear(
                name="mamba_in",
                in_features=self.hidden,
                out_features=inner + convolved + self.heads,
                split="column",
                bias=self.bias,
            ),
            Scan(
                name="mamba_scan",
                features=inner,
                state_elements=inner * self.state + convolved * (self.kernel - 1),
                scan_flops_per_token=FLOPS_PER_STATE_ELEMENT * inner * self.state + 2 * convolved * self.kernel,
                saved=convolved + self.heads,
                extra_parameters=convolved * (self.kernel + self.conv_bias) + 3 * self.heads,
            ),
            Elementwise(name="mamba_gate", in_features=2 * inner, out_features=inner, split="heads"),
            Norm(name="mamba_inner_norm", features=inner, weight_features=inner, split="heads"),
            Linear(name="mamba_out", in_features=inner, out_features=self.hidden, split="row", bias=self.bias),
        )


class LightningAttention(msgspec.Struct, frozen=True, kw_only=True):
    """Linear attention with a fixed decay per head: MiniMax-01 report (arXiv 2501.08313), section 2.2."""

    hidden: int
    heads: int
    head_dim: int

    def operators(self) -> tuple[Operator, ...]:
        """Projection, recurrence, norm, gate, projection."""
        inner = self.heads * self.head_dim
        state = inner * self.head_dim
        return (
            Linear(name="qkv", in_features=self.hidden, out_features=3 * inner, split="column"),
            Elementwise(name="qkv_activation", in_features=3 * inner, out_features=3 * inner, split="heads"),
            Scan(
                name="linear_attention",
                features=inner,
                state_elements=state,
                scan_flops_per_token=FLOPS_PER_STATE_ELEMENT * state,
                saved=3 * inner,
            ),
            Norm(name="attention_inner_norm", features=inner, weight_features=inner, split="heads"),
            Linear(
                name="output_gate",
                in_features=self.hidden,
                out_features=inner,
                split="column",
                shared_input=True,
            ),
            Elementwise(name="attention_gate", in_features=2 * inner, out_features=inner, split="heads"),
            Linear(name="attention_output", in_features=inner, out_features=self.hidden, split="row"),
        )


class GatedDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The gated delta rule: Yang et al., "Gated Delta Networks" (arXiv 2412.06464), section 3.

    The delta rule reads the state once more before it writes: one further multiply-add per element.
    """

    hidden: int
    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    kernel: int

    def operators(self) -> tuple[Operator, ...]:
        """Projections, convolution and recurrence, gated norm, projection."""
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        convolved = 2 * keys + values
        state = values * self.key_dim
        return (
            Linear(name="qkvz", in_features=self.hidden, out_features=convolved + values, split="column"),
            Linear(
                name="decay",
                in_features=self.hidden,
                out_features=2 * self.value_heads,
                split="column",
                shared_input=True,
            ),
            Scan(
                name="linear_attention",
                features=values,
                state_elements=state + convolved * (self.kernel - 1),
                scan_flops_per_token=(FLOPS_PER_STATE_ELEMENT + 2) * state + 2 * convolved * self.kernel,
                saved=convolved + 2 * self.value_heads,
                extra_parameters=convolved * self.kernel + 2 * self.value_heads,
            ),
            Norm(name="attention_inner_norm", features=values, weight_features=self.value_dim, split="heads"),
            Elementwise(name="attention_gate", in_features=2 * values, out_features=values, split="heads"),
            Linear(name="attention_output", in_features=values, out_features=self.hidden, split="row"),
        )

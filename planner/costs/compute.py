"""Time of one operator on one device: a roofline whose efficiency falls with the shape.

time = max(FLOPs / (peak · η(shape)), bytes / (bandwidth · η)) + kernel start, after Williams et al., "Roofline"
(CACM 2009). Backward of a product is two products of the same size: one for the input, one for the weight. All arrays
run over BlockKeys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shardwright.models import Attention, Elementwise, Embedding, Experts, Linear, Norm, Operator, Scan
from shardwright.topologies import Accelerator

from .coefficients import Coefficients, Kernels
from .keys import BlockKeys, Floats

LOW_PRECISION = ("fp8", "fp4")
COMMON_HEAD_FEATURES = 128


@dataclass(frozen=True, slots=True)
class OperatorTimes:
    """Seconds per micro-batch: forward, backward for the input, backward for the weight; FLOPs of the forward."""

    forward: Floats
    backward_input: Floats
    backward_weight: Floats
    flops: Floats


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator under one job's precision: peaks, bandwidth and fitted efficiencies.

    `frozen` says that the job leaves the weights as they are, so that no product for their gradients is computed.
    `together` devices of the cluster wait for the slowest among them.
    """

    peak_flops: float
    low_precision_peak_flops: float
    memory_bytes_per_s: float
    memory_bytes: float
    coefficients: Coefficients
    low_precision: bool
    element_bytes: float
    frozen: bool = False
    together: int = 1

    def product_s(self, m: Floats, n: Floats, k: Floats, low: bool, fraction: float = 1.0) -> Floats:
        """Seconds of one [m, k] × [k, n] product, without its kernel start; `fraction` scales the efficiency."""
        kernels = self.coefficients.low_precision_kernels if low else self.coefficients.kernels
        size = 1.0 if low else self.element_bytes
        slowdown = (1 + kernels.gemm_k_half / k) * (1 + self.output_half(kernels) / np.maximum(m * n, 1.0))
        compute = 2 * m * n * k * slowdown / (self.peak(low) * kernels.gemm_fraction * fraction)
        traffic = ((m * k + k * n) * size + m * n * self.element_bytes) / self.effective_memory_bytes_per_s
        return np.maximum(compute, traffic)

    def peak(self, low: bool = False) -> float:
        """FLOP/s that the slowest of the cluster's devices could reach.

        Devices of one kind clock differently under one power limit, by a few percent (Sinha et al. 2022, "Not All GPUs
        Are Created Equal"); the slowest of n is about √(2 ln n) standard deviations below their mean.
        """
        spread = self.coefficients.kernels.device_spread
        fastest = self.low_precision_peak_flops if low else self.peak_flops
        return fastest / (1 + spread * math.sqrt(2 * math.log(self.together)))

    def output_half(self, kernels: Kernels) -> float:
        """Outputs at which a product runs at half its rate, with this software generation's math library."""
        return kernels.gemm_output_half * self.coefficients.framework.gemm_output_factor

    def traffic_s(self, traffic_bytes: Floats) -> Floats:
        """Seconds to move bytes through the device's own memory by a fused elementwise kernel."""
        return traffic_bytes / (self.effective_memory_bytes_per_s * self.coefficients.framework.elementwise_fraction)

    @property
    def effective_memory_bytes_per_s(self) -> float:
        """Memory bandwidth a streaming kernel reaches."""
        return self.memory_bytes_per_s * self.coefficients.kernels.memory_fraction

    @property
    def kernel_s(self) -> float:
        """Gap between two kernels, or the host's time to issue one where that is longer is counted per block."""
        return self.coefficients.kernels.kernel_s


def device_of(accelerator: Accelerator, precision: str, chosen: Coefficients, frozen: bool = False) -> Device:
    """The device a job sees. Raises TopologyError when the accelerator has no known peak at the precision."""
    wide = precision if precision in ("fp16", "bf16") else "bf16"
    if precision == "fp32":
        wide = "tf32" if "tf32" in accelerator.peak_flops else "fp32"
    peak = accelerator.peak(wide)
    low = precision in LOW_PRECISION
    return Device(
        peak_flops=peak,
        low_precision_peak_flops=accelerator.peak(precision) if low else peak,
        memory_bytes_per_s=accelerator.memory_bytes_per_s,
        memory_bytes=float(accelerator.memory_bytes),
        coefficients=chosen,
        low_precision=low,
        element_bytes=4.0 if precision == "fp32" else 2.0,
        frozen=frozen,
    )


def operator_times(op: Operator, keys: BlockKeys, device: Device) -> OperatorTimes:
    """Times of one operator for every key; experts get the tokens routed to them."""
    if op.source_tokens and not isinstance(op, Attention):
        keys = keys.of_source(op.source_tokens)
    if isinstance(op, Linear):
        tokens = keys.own_tokens if op.split in ("replicated", "sequence") else keys.tokens
        low = device.low_precision and op.split not in ("vocab", "replicated")
        n = keys.by_tp(lambda tp, sp: op.out_features_per_rank(tp))
        k = keys.by_tp(lambda tp, sp: op.in_features_per_rank(tp))
        factor = device.coefficients.kernels.vocabulary_factor if op.split == "vocab" else 1.0
        times = _linear(tokens, n, k, low, device, factor)
        return _with_loss(times, tokens * n, device) if op.split == "vocab" else times
    if isinstance(op, Attention):
        return _attention(op, keys, device)
    if isinstance(op, Norm):
        features = op.features / keys.tp if op.split == "heads" else float(op.features)
        return _streamed(_tokens(op.split, keys) * features, 2.0, 3.0, device)
    if isinstance(op, Elementwise):
        divided = op.split in ("column", "row", "heads")
        scale = _tokens(op.split, keys) / (keys.tp if divided else 1.0)
        return _elementwise(op, scale, device)
    if isinstance(op, Embedding):
        return _streamed(_tokens("sequence", keys) * op.features, 2.0, 3.0, device)
    if isinstance(op, Scan):
        return _scan(op, keys, device)
    return _experts(op, keys, device)


def _tokens(split: str, keys: BlockKeys) -> Floats:
    return keys.own_tokens if split in ("replicated", "sequence") else keys.tokens


def _linear(tokens: Floats, n: Floats, k: Floats, low: bool, device: Device, factor: float = 1.0) -> OperatorTimes:
    gap = device.kernel_s
    cast = device.coefficients.framework.cast_traffic_bytes if low else 0.0
    forward = device.product_s(tokens, n, k, low, factor) + gap + device.traffic_s(cast * tokens * k)
    to_input = device.product_s(tokens, k, n, low, factor) + gap + device.traffic_s(cast * tokens * n)
    to_weight = device.product_s(n, k, tokens, low, factor) + gap
    return OperatorTimes(forward, to_input, to_weight, 2 * tokens * n * k)


def _with_loss(times: OperatorTimes, logits: Floats, device: Device) -> OperatorTimes:
    """Cross-entropy in fp32 over this rank's part of the vocabulary, split evenly between forward and backward."""
    loss = device.traffic_s(logits * device.coefficients.framework.loss_traffic_bytes / 2)
    return OperatorTimes(times.forward + loss, times.backward_input + loss, times.backward_weight, times.flops)


def _attention(op: Attention, keys: BlockKeys, device: Device) -> OperatorTimes:
    """Softmax attention; flash recomputes the scores in backward, 2.5 times the forward work (FlashAttention-2,
    section 3.1), and the fewer features a head has the more its exponentials weigh (FlashAttention-3, Shah et al.
    2024, section 3); an unfused kernel writes and reads every score."""
    kernels, framework = device.coefficients.kernels, device.coefficients.framework
    heads = keys.by_tp(lambda tp, sp: -(-op.heads // tp))
    per_score = 2 * (op.qk_head_dim + op.v_head_dim)
    if framework.attention_kernel == "flash":
        context = op.mean_context(keys.sequence)
        flops = keys.tokens * heads * context * per_score
        exponent = kernels.attention_exponent_features
        narrow = (1 + 4 * exponent / per_score) / (1 + exponent / COMMON_HEAD_FEATURES)
        slowdown = narrow * (1 + kernels.attention_half * keys.cp / keys.sequence)
        rate = device.peak() * framework.attention_fraction
        forward = flops * slowdown / (rate * kernels.attention_forward_fraction) + device.kernel_s
        backward = 2.5 * flops * slowdown / (rate * kernels.attention_backward_fraction) + device.kernel_s
        return OperatorTimes(forward, backward, np.zeros(len(keys)), flops)
    scores = keys.tokens * heads * (op.source_tokens or keys.sequence)
    forward = _batched_product_s(op, keys, heads, device) + device.traffic_s(scores * framework.score_traffic_bytes)
    forward = forward + 4 * device.kernel_s
    return OperatorTimes(forward, 2 * forward, np.zeros(len(keys)), scores * per_score)


def _batched_product_s(op: Attention, keys: BlockKeys, heads: Floats, device: Device) -> Floats:
    """Q Kᵀ and P V as batched products over heads and sequences: the whole batch fills the device together.

    Rows of a head size that is no multiple of 8 elements cannot feed the tensor cores (Anthony et al. 2024, "The Case
    for Co-Designing Model Architectures with Hardware", section 5).
    """
    kernels: Kernels = device.coefficients.kernels
    rows = keys.tokens / keys.mbs
    outputs = heads * keys.mbs * rows
    total: Floats = np.zeros(len(keys))
    aligned = op.qk_head_dim % 8 == 0 and op.v_head_dim % 8 == 0
    fraction = kernels.gemm_fraction * (1.0 if aligned else kernels.unaligned_fraction)
    length = op.source_tokens or keys.sequence
    for n, k in ((length, op.qk_head_dim), (op.v_head_dim, length)):
        slowdown = (1 + kernels.gemm_k_half / k) * (1 + device.output_half(kernels) / (outputs * n))
        total = total + 2 * outputs * n * k * slowdown / (device.peak() * fraction)
    return total


def _streamed(elements: Floats, forward_passes: float, backward_passes: float, device: Device) -> OperatorTimes:
    size = elements * device.element_bytes
    forward = device.traffic_s(size * forward_passes) + device.kernel_s
    backward = device.traffic_s(size * backward_passes) + device.kernel_s
    return OperatorTimes(forward, backward, np.zeros_like(forward), np.zeros_like(forward))


def _elementwise(op: Elementwise, scale: Floats, device: Device) -> OperatorTimes:
    size = scale * device.element_bytes
    forward = device.traffic_s(size * (op.in_features + op.out_features)) + device.kernel_s
    reads = 2 * op.in_features if op.saved else op.in_features
    backward = device.traffic_s(size * (reads + op.out_features)) + device.kernel_s
    return OperatorTimes(forward, backward, np.zeros_like(forward), np.zeros_like(forward))


def _scan(op: Scan, keys: BlockKeys, device: Device) -> OperatorTimes:
    flops = keys.tokens * op.scan_flops_per_token / keys.tp
    rate = device.peak() * device.coefficients.kernels.scan_fraction
    traffic = device.traffic_s(keys.tokens * op.saved / keys.tp * 2 * device.element_bytes)
    forward = np.maximum(flops / rate, traffic) + device.kernel_s
    return OperatorTimes(forward, 2 * forward, np.zeros_like(forward), flops)


def _experts(op: Experts, keys: BlockKeys, device: Device) -> OperatorTimes:
    """Grouped products: every rank of an ep × etp group brings its own tokens, each sent to `topk` experts; before and
    after, the tokens are permuted in the device's memory. Biases are added expert by expert and the pieces joined
    again, in kernels of their own (Megatron-LM, transformer/moe/experts.py)."""
    framework = device.coefficients.framework
    local = np.ceil(op.experts / keys.ep)
    copies = keys.own_tokens * keys.etp * op.topk * framework.expert_imbalance
    per_expert = np.maximum(copies / local, 1.0)
    biased = any(isinstance(each, Linear) and each.bias for each in op.body)
    passes = framework.biased_activation_passes if biased else 1.0
    parts = []
    for each in op.body:
        if isinstance(each, Linear):
            n = np.ceil(each.out_features / np.where(each.split == "column", keys.etp, 1))
            k = np.ceil(each.in_features / np.where(each.split == "row", keys.etp, 1))
            parts.append(_grouped(per_expert, local, n, k, device))
        else:
            parts.append(_elementwise(each, passes * copies / keys.etp, device))
    hidden = next(each.in_features for each in op.body if isinstance(each, Linear))
    permuted = device.traffic_s(copies * hidden * framework.permute_traffic_bytes)
    zero = np.zeros_like(permuted)
    parts.append(OperatorTimes(permuted, permuted, zero, zero))
    return OperatorTimes(
        *(
            np.sum([getattr(part, name) for part in parts], axis=0)
            for name in ("forward", "backward_input", "backward_weight", "flops")
        )
    )


def _grouped(m: Floats, groups: Floats, n: Floats, k: Floats, device: Device) -> OperatorTimes:
    """`groups` products in one kernel: the last wave is shared, so the output term sees all of them together."""
    low = device.low_precision
    kernels = device.coefficients.low_precision_kernels if low else device.coefficients.kernels
    peak = device.peak(low)
    weights = groups * n * k * (1.0 if low else device.element_bytes)

    def seconds(rows: Floats, columns: Floats, inner: Floats) -> Floats:
        slowdown = (1 + kernels.gemm_k_half / inner) * (1 + device.output_half(kernels) / (groups * rows * columns))
        compute = (
            2
            * groups
            * rows
            * columns
            * inner
            * slowdown
            / (peak * kernels.gemm_fraction * kernels.grouped_gemm_fraction)
        )
        moved = weights + groups * m * (n + k) * device.element_bytes
        result: Floats = np.maximum(compute, moved / device.effective_memory_bytes_per_s) + device.kernel_s
        return result

    cast = device.coefficients.framework.cast_traffic_bytes if low else 0.0
    forward = seconds(m, n, k) + device.traffic_s(cast * groups * m * k)
    backward = seconds(m, k, n) + device.traffic_s(cast * groups * m * n)
    return OperatorTimes(forward, backward, seconds(n, k, m), 2 * groups * m * n * k)

"""The training cost model: step time and memory of many strategies at once, and the parts they are made of."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shardwright.models import ModelGraph
from shardwright.topologies import Collectives, Topology

from ..workload.strategy_table import Ints, StrategyTable
from ..workload.training import TrainingJob
from .blocks import BlockCosts, block_costs, selective_costs
from .footprint import Footprint, device_memory
from .keys import Floats, block_keys
from .memory import StateBytes, state_bytes
from .network import MappedNetwork, Network, groups_of
from .offload import Tiers, tiers_of
from .pipeline import PipelineLoad, PipelineTime, pipeline_time
from .ranks import domain_size, fastest_device
from .rows import DUALPIPE, SELECTIVE, Rows, recomputes_by_stage
from .sharding import ShardingTime, StageLoad, local_parameters, sharding_time
from .stages import Chain, Pipelines, chain


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Arrays over strategies: seconds of a step and bytes on the fullest device, with their parts.

    Memory is infinite where a tier cannot take what was moved to it. `step_s` is the pipeline, the exposed
    data-parallel transfers, the optimizer and the fixed time per step. `slowest` and `fullest` say which of the stages
    looked at takes longest and holds most. `busy_s` is what the mean device computes and transfers for its
    micro-batches. Where devices differ in size, memory counts as on the smallest with as large a share filled.
    """

    step_s: Floats
    busy_s: Floats
    memory_bytes: Floats
    pipeline: PipelineTime
    sharding: ShardingTime
    fixed_s: float
    footprint: Footprint
    slowest: Ints
    fullest: Ints


class TrainingCosts:
    """Costs of training one model on one cluster for one job, for any table of strategies.

    Block costs are computed once per distinct key and stage shapes once per distinct pipeline; a row only gathers
    them, so the time does not depend on the number of devices. Raises TopologyError when an accelerator has no known
    peak at the job's precision.
    """

    def __init__(self, model: ModelGraph, topology: Topology, job: TrainingJob) -> None:
        self.model = model
        self.job = job
        self.device, ranks = fastest_device(topology, job, model.dropout)
        self.states: StateBytes = state_bytes(job, self.device)
        self.network: Network = Network(Collectives(topology), domain_size(topology))
        self.tiers: Tiers = tiers_of(topology, job)
        self.chain: Chain = chain(model, job.sequence_length, ranks)
        self.pipelines = Pipelines(self.chain)
        self.is_head: Floats = np.array([float(block.role == "head") for block in self.chain.blocks])

    def on_devices(self, devices: Ints) -> TrainingCosts:
        """The same costs with every transfer timed on the real groups: `devices[r]` plays rank r."""
        other = copy.copy(self)
        other.network = MappedNetwork(self.network.collectives, self.network.domain, devices)
        if not self.chain.ranks.alike:
            other.chain = replace(self.chain, ranks=self.chain.ranks.in_order(devices))
            other.pipelines = Pipelines(other.chain)
        return other

    def microbatches(self, table: StrategyTable) -> Ints:
        """Micro-batches per step of every row."""
        return self.job.gbs // (table.mbs * table.dp)

    def layers_of(self, table: StrategyTable) -> Ints:
        """Layers of every virtual stage of a table's first row, in chain order."""
        return self.pipelines.layers(table, 0)

    def rows(self, table: StrategyTable, every_stage: bool = False) -> Rows:
        """Everything a row is made of; the rows must be legal. With `every_stage` (one pp for all rows) stage i is
        pipeline rank i, otherwise only stages that can be slowest or fullest are kept."""
        keys, key = block_keys(table, self.job.sequence_length)
        costs = block_costs(self.model, self.chain.blocks, keys, self.device, self.network)
        microbatches = self.microbatches(table)
        stages, pipeline = self.pipelines.of(table, microbatches, every_stage)
        return Rows(table, microbatches, keys, key, costs, stages, pipeline, *self._recomputed(table, key, costs))

    def evaluate(self, table: StrategyTable) -> StepCosts:
        """Step time and memory of every row; the rows must be legal."""
        return self.step(self.rows(table))

    def step(self, rows: Rows) -> StepCosts:
        """Step time and memory of rows already gathered."""
        table = rows.table
        forward, backward = self.stage_seconds(rows)
        slowest = np.argmax(forward + backward, axis=1)
        load_of_pipeline = self.pipeline_load(rows, forward, forward + backward, slowest)
        time = pipeline_time(table, rows.microbatches, load_of_pipeline)
        load = self.stage_load(rows, forward, backward)
        sharding = sharding_time(table, load, rows.microbatches, self.network, self.device, self.states)
        local = local_parameters(table, load.dense_parameters, load.expert_parameters)
        optimizer_s = self.tiers.optimizer_s(table.offload_optimizer, local, self.states, sharding.optimizer_s)
        sharding = replace(sharding, optimizer_s=optimizer_s)
        fixed = self.device.coefficients.framework.step_s
        footprint = device_memory(rows, self.device, self.states, self.is_head)
        held = footprint.device.sum(axis=2) * rows.stages.tightness[rows.pipeline]
        held = np.where(self._tiers_hold(table, footprint), held, np.inf)
        return StepCosts(
            step_s=time.seconds + sharding.gradients_s + sharding.weights_s + sharding.optimizer_s + fixed,
            busy_s=rows.microbatches * load_of_pipeline.total_s / table.pp,
            memory_bytes=held.max(axis=1),
            pipeline=time,
            sharding=sharding,
            fixed_s=fixed,
            footprint=footprint,
            slowest=slowest,
            fullest=np.argmax(held, axis=1),
        )

    def stage_load(self, rows: Rows, forward: Floats, backward: Floats) -> StageLoad:
        """What data parallelism moves for the heaviest stage, and the seconds of the slowest that it hides under."""
        each = np.arange(len(rows.table))
        slowest = np.argmax(forward + backward, axis=1)
        dense = rows.by_stage(rows.stages.count, rows.dense_parameters())
        expert = rows.by_stage(rows.stages.count, rows.gathered(rows.costs.expert_parameters))
        heaviest = np.argmax(dense + expert, axis=1)
        return StageLoad(
            dense_parameters=dense[each, heaviest],
            expert_parameters=expert[each, heaviest],
            layers=rows.stages.count[rows.pipeline, heaviest].sum(axis=1),
            forward_s=forward[each, slowest],
            backward_s=backward[each, slowest],
        )

    def undivided(self, rows: Rows, step: StepCosts) -> tuple[Floats, Floats]:
        """Seconds of a step without its data-parallel transfers, and bytes of the fullest device without weights and
        gradients: what dividing more of the states over the same ranks leaves at least."""
        share = 1 + self.device.coefficients.framework.allocator_fraction
        held = step.footprint.device.sum(axis=2) - share * step.footprint.device[:, :, :2].sum(axis=2)
        held = (held * rows.stages.tightness[rows.pipeline]).max(axis=1)
        seconds = step.step_s - step.sharding.gradients_s - step.sharding.weights_s
        return seconds, np.where(np.isfinite(step.memory_bytes), held, np.inf)

    def stage_seconds(self, rows: Rows) -> tuple[Floats, Floats]:
        """Forward and backward seconds of one micro-batch, recompute included, [rows, stages]."""
        stages, costs = rows.stages, rows.costs
        forward_s = rows.gathered(costs.forward_s)
        forward = rows.by_stage(stages.count, forward_s)
        backward = rows.by_stage(stages.count, rows.gathered(costs.backward_s) + rows.again_s)
        backward = backward + rows.by_stage(stages.again, rows.redone_s)
        if not self.chain.ranks.alike:
            slowness = stages.slowness[rows.pipeline]
            forward, backward = forward * slowness, backward * slowness
        if not np.any(rows.table.offload_activations):
            return forward, backward
        moved = rows.by_stage(stages.count - stages.again, rows.saved_bytes * (1 - self.is_head))
        moving_s = moved / self.tiers.rate(rows.table.offload_activations)[:, None]
        return np.maximum(forward, moving_s), np.maximum(backward, moving_s)

    def _tiers_hold(self, table: StrategyTable, footprint: Footprint) -> NDArray[np.bool_]:
        """Which rows and stages move no more to a tier than it has room for, [strategies, stages]."""
        if not (np.any(table.offload_optimizer) or np.any(table.offload_activations)):
            return np.ones(footprint.moved_optimizer.shape, bool)
        return self.tiers.fits(
            table.offload_optimizer[:, None],
            footprint.moved_optimizer,
            table.offload_activations[:, None],
            footprint.moved_activations,
        )

    def pipeline_load(self, rows: Rows, forward_s: Floats, stage_s: Floats, slowest: Ints) -> PipelineLoad:
        """What the pipeline of every row is timed by, from the seconds of its stages and which is slowest."""
        table, costs, stages = rows.table, rows.costs, rows.stages
        each = np.arange(len(table))
        share = np.where(table.schedule == DUALPIPE, 0.5, 1.0)
        both = rows.gathered(costs.forward_s + costs.backward_s) + rows.again_s
        weight_s = rows.by_stage(stages.count, rows.gathered(costs.weight_s)) * stages.slowness[rows.pipeline]
        again_s = rows.over_all(stages.slow_again, rows.redone_s)
        hop, hops = self.hops(table)
        framework = self.device.coefficients.framework
        overlap = np.where(table.vpp > 1, framework.interleaved_pp_overlap, framework.pp_overlap)
        return PipelineLoad(
            stage_s=share * stage_s[each, slowest],
            stage_forward_s=share * forward_s[each, slowest],
            stage_weight_s=share * weight_s[each, slowest],
            total_s=share * (rows.over_all(stages.slow_total, both) + again_s),
            hop_s=hop,
            hops_s=hops,
            hop_exposed_s=(2 * table.vpp * hop + self._vocabulary_s(table)) * (1 - overlap),
            uneven=stages.uneven[rows.pipeline],
        )

    def hops(self, table: StrategyTable) -> tuple[Floats, Floats]:
        """Seconds to send one micro-batch's activations one way: over the slowest stage boundary, over all of them.

        Every tp rank sends its own part: under sp it holds no other, without it the parts are gathered on arrival
        (Narayanan et al. 2021, section 4.1, "scatter/gather").
        """
        tokens = table.mbs * self.job.sequence_length / (table.cp * table.tp)
        size = tokens * self.model.stream_size * self.device.element_bytes
        return self.network.hop_seconds(table, size)

    def _vocabulary_s(self, table: StrategyTable) -> Floats:
        """Seconds per micro-batch that vocabulary parallelism takes between pipeline ranks: the last layer's output to
        all of them and its gradient's sum, and the same for the embedding's output (Yeung et al. 2025, section 3)."""
        chosen = table.vocab_parallel == 1
        result: Floats = np.zeros(len(table))
        if not chosen.any():
            return result
        stride = table.world_size // table.pp
        groups = groups_of(stride, np.where(chosen, table.pp, 1), self.network.domain)
        tokens = table.mbs * self.job.sequence_length / (table.cp * table.tp)
        size = tokens * self.model.hidden_size * self.device.element_bytes
        slowdown = self.device.coefficients.framework.crossing_slowdown
        for op in ("broadcast", "all_reduce"):
            result = result + 2 * self.network.crowded_seconds(op, size, groups, slowdown)
        return result

    def _recomputed(self, table: StrategyTable, key: Ints, costs: BlockCosts) -> tuple[Floats, Floats, Floats, Floats]:
        """`again_s`, `saved_bytes`, `redone_s` and `kept_bytes` of `Rows`."""
        again: Floats = np.zeros((len(table), len(self.chain.blocks)))
        saved, redone, kept = costs.saved_bytes[key], costs.forward_s[key], costs.input_bytes[key]
        chosen = table.recompute == SELECTIVE
        by_stage = recomputes_by_stage(table)
        for bits in np.unique(table.recompute_modules[chosen]):
            mask = chosen & (table.recompute_modules == bits)
            part = selective_costs(self.chain.blocks, self.device, costs.operators, int(bits))
            whole, some = mask & ~by_stage, mask & by_stage
            again[whole], saved[whole] = part.again_s[key[whole]], part.saved_bytes[key[whole]]
            redone[some], kept[some] = part.again_s[key[some]], part.saved_bytes[key[some]]
        return again, saved, redone, kept

"""Device meshes of the real programs over a fake process group, as groups of ranks that compare with a plan's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shardwright.planner.plan.training import TrainingPlan

Groups = list[tuple[int, ...]]


@contextmanager
def fake_world(size: int) -> Iterator[None]:
    """Rank 0 of so many ranks, none of which exists: collectives do nothing."""
    import torch.distributed as distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def groups(mesh: Any, *axes: str) -> Groups:
    """The groups of ranks along some neighbouring axes of a mesh, folded into one."""
    names = list(mesh.mesh_dim_names)
    where = [names.index(axis) for axis in axes]
    rest = [index for index in range(len(names)) if index not in where]
    size = 1
    for index in where:
        size *= mesh.mesh.shape[index]
    return sorted(tuple(row) for row in mesh.mesh.permute(*rest, *where).reshape(-1, size).tolist())


def planned(plan: TrainingPlan, axis: str) -> Groups:
    """The plan's groups of an axis, each alone where the plan names none."""
    found: Sequence[Sequence[int]] = plan.rank_groups.get(axis) or [(rank,) for rank in range(plan.strategy.world_size)]
    return sorted(tuple(group) for group in found)


def devices(plan: TrainingPlan, ranks: Groups) -> set[frozenset[int]]:
    """The devices that talk to each other in groups of ranks."""
    return {frozenset(plan.rank_to_device[rank] for rank in group) for group in ranks}

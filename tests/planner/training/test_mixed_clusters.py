"""Plans for random mixed clusters and models drop no layer, leave no stage empty and use every device once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.models import TransformerShape, transformer
from shardwright.planner import inputs
from shardwright.planner.errors import Infeasible
from shardwright.planner.strategy import Constraints
from shardwright.planner.training import plan_training
from shardwright.planner.training.links import bounding_context
from shardwright.planner.training.planning import context_of, space_of
from shardwright.planner.training.search import evaluated
from shardwright.planner.validate.training import problems
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster, parse_topology

KINDS = ("dgx-h100", "dgx-a100", "dgx-v100", "hgx-h200", "pcie-box", "aws-p3")
GROUPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(1, 2)), min_size=1, max_size=3, unique_by=lambda g: g[0]
)
MODELS = st.fixed_dictionaries(
    {
        "layers": st.sampled_from([2, 3, 7, 10]),
        "heads": st.sampled_from([4, 6]),
        "experts": st.sampled_from([0, 0, 4]),
        "gbs": st.sampled_from([12, 16, 24]),
        "pp": st.sampled_from([(), (), (2,), (4,)]),
        "slow": st.sampled_from([1.0, 0.6]),
    }
)


def mixed(groups: list[tuple[str, int]], slow: float):
    """Nodes of several catalog clusters on the first one's network, one of them slow."""
    documents = [cluster(f"{name}:{count}").document for name, count in groups]
    nodes = [dict(group) for document in documents for group in document["nodes"]]
    for number, group in enumerate(nodes):
        group["name"] = f"group{number}"
        group["network"] = documents[0]["networks"][0]["name"]
    document = {"schema": documents[0]["schema"], "name": "mixed", "nodes": nodes}
    document["networks"] = documents[0]["networks"][:1]
    accelerators = [each for one in documents for each in one.get("accelerators", ())]
    if accelerators:
        document["accelerators"] = accelerators
    if slow < 1:
        document["degraded"] = [{"node": parse_topology(document).node_names[-1], "compute": slow}]
    return parse_topology(document)


def shape(sizes):
    mixture = {"experts": sizes["experts"], "topk": 2, "moe_ffn": 1536} if sizes["experts"] else {}
    return transformer(
        TransformerShape(
            layers=sizes["layers"],
            hidden=sizes["heads"] * 128,
            heads=sizes["heads"],
            kv_heads=2,
            ffn=3072,
            vocab=32000,
            gated=True,
            norm="rms",
            **mixture,
        )
    )


@settings(derandomize=True, max_examples=8, deadline=None)
@given(GROUPS, MODELS)
def test_every_plan_on_a_mixed_cluster_holds(groups, sizes):
    model, topology = shape(sizes), mixed(groups, sizes["slow"])
    job = TrainingJob(
        gbs=sizes["gbs"],
        sequence_length=512,
        precision="fp16",
        constraints=Constraints(
            pp=sizes["pp"] if topology.n_devices % 4 == 0 else (), cp=(1,), mbs=(1,), recompute=("none", "full")
        ),
    )
    try:
        plan = plan_training(model, topology, job, inputs=(inputs.model_input(model), inputs.topology_input(topology)))
    except Infeasible as error:
        assert "no strategy is legal" in str(error)
        return
    assert problems(plan) == []
    assert sum(stage.layers for stage in plan.stages) == sizes["layers"]
    assert all(stage.layers or stage.holds for stage in plan.stages)
    assert sorted(plan.rank_to_device) == list(range(topology.n_devices))
    context = context_of(model, topology, job)
    space = space_of(context)
    nodes = space.nodes()
    table, _ = space.leaves(nodes, np.arange(len(nodes)))
    ideal = bounding_context(context)
    least = float(ideal.goal.values(evaluated(ideal.costs, table)).min())
    assert plan.optimality.bound == min(plan.prediction.step_s, least) or np.isclose(plan.optimality.bound, least)
    assert plan.prediction.step_s >= plan.optimality.bound

"""SGLang's own parser and checks read every exported command as the plan means it, and refuse broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from shardwright.planner import export_plan
from tests.engines import scripts
from tests.serving_plans import plan_of

pytest.importorskip("sglang.srt.server_args", reason="the engine checks run in `make test-engines`")

SHAPES = [
    "one worker",
    "two workers on a node",
    "uneven stages",
    "a stage a node",
    "tp over nodes",
    "split",
    "split with stages",
    "wide experts",
    "wide experts, split",
    "groups with stages",
    "groups with tp",
    "experts split both ways",
]


def parsed(words: list[str]) -> Any:
    """The server's arguments as its command line makes them."""
    from sglang.srt.server_args import prepare_server_args

    return prepare_server_args(words)


@pytest.mark.parametrize("shape", SHAPES)
def test_sglang_reads_every_part_of_every_worker_as_planned(shape, tmp_path):
    from sglang.srt.distributed.utils import get_pp_indices

    plan = plan_of(shape, "sglang")
    where = scripts.folder(plan, "sglang", tmp_path)
    pools = {f"{pool.phase}-{number}": pool for pool in plan.pools for number in range(pool.workers)}
    for script in scripts.worker_scripts(where):
        words, environment = scripts.started(script, "PYTHON")
        found = parsed(words[2:])
        worker, _, part = script.stem.partition("-part-")
        layout = pools[worker].layout
        assert (found.tp_size, found.pp_size) == (layout.stage_devices, layout.pp)
        assert (found.attn_dp_size, found.ep_size, found.dp_size) == (layout.attn_dp, layout.ep, 1)
        assert found.node_rank == int(part or 0)
        assert layout.devices // found.nnodes == len(environment["CUDA_VISIBLE_DEVICES"].split(","))
        phase = pools[worker].phase
        assert found.disaggregation_mode == ("null" if phase == "aggregated" else phase)
        if layout.pp > 1:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SGLANG_PP_LAYER_PARTITION", environment["SGLANG_PP_LAYER_PARTITION"])
                counts = [int(count) for count in environment["SGLANG_PP_LAYER_PARTITION"].split(",")]
                spans = [get_pp_indices(sum(counts), stage, layout.pp) for stage in range(layout.pp)]
            assert [end - start for start, end in spans] == counts


@pytest.mark.parametrize("launcher", ["leaderworkerset", "dynamo"])
def test_sglang_reads_the_words_that_pods_pass_it(launcher):
    text = export_plan(plan_of("wide experts", "sglang"), launcher).text
    document = next(yaml.safe_load_all(text))
    if launcher == "dynamo":
        pod = document["spec"]["components"][1]["podTemplate"]
    else:
        pod = document["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    assert parsed(pod["spec"]["containers"][0]["args"]).attn_dp_size == 16


def test_sglang_reads_a_prediction_modules_drafts(tmp_path):
    where = scripts.folder(plan_of("wide experts", "sglang", drafts=2), "sglang", tmp_path)
    found = parsed(scripts.started(where / "aggregated-0-part-0.sh", "PYTHON")[0][2:])
    assert (found.speculative_algorithm, found.speculative_num_draft_tokens) == ("EAGLE", 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [("tp-size", "four"), ("no-such-option", 1), ("kv-cache-dtype", "int3"), ("disaggregation-mode", "x")],
)
def test_sglang_refuses_a_broken_configuration(key, value, tmp_path):
    where = scripts.folder(plan_of("split", "sglang"), "sglang", tmp_path)
    broken = yaml.safe_load((where / "prefill.yaml").read_text()) | {key: value}
    (where / "prefill.yaml").write_text(yaml.safe_dump(broken))
    words, _ = scripts.started(Path(where / "prefill-0.sh"), "PYTHON")
    with pytest.raises((SystemExit, ValueError)):
        parsed(words[2:])

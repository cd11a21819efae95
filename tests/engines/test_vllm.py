"""vLLM's own parser and configuration read every exported command as the plan means it, and refuse broken ones."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from shardwright.planner import ServingPlan, export_plan
from tests.engines import scripts
from tests.serving_plans import plan_of

pytest.importorskip("vllm", reason="the engine checks run in `make test-engines`")

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
]


@lru_cache
def parser() -> Any:
    """`vllm serve` as the command line has it."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    made = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(made.add_subparsers())
    return made


def parsed(words: list[str], model: str | None = None) -> Any:
    """The arguments, for a model whose configuration is on this machine."""
    found = parser().parse_args(words)
    if model is not None:
        found.model, found.tokenizer, found.skip_tokenizer_init = model, None, True
    return found


def configured(arguments: Any) -> Any:
    """The engine's whole configuration; vLLM checks degrees against the model and each other in making it."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return AsyncEngineArgs.from_cli_args(arguments).create_engine_config(headless=bool(arguments.headless))


@pytest.mark.parametrize("shape", SHAPES)
def test_vllm_configures_every_part_of_every_worker_as_planned(shape, tmp_path, monkeypatch):
    plan = plan_of(shape)
    model, where = scripts.model_folder(plan, tmp_path), scripts.folder(plan, "vllm", tmp_path)
    pools = {f"{pool.phase}-{number}": pool for pool in plan.pools for number in range(pool.workers)}
    for script in scripts.worker_scripts(where):
        words, environment = scripts.started(script, "VLLM")
        arguments = parsed(words, model)
        worker, _, part = script.stem.partition("-part-")
        pool, found = pools[worker], configured(arguments)
        layout, parallel = pool.layout, found.parallel_config
        degrees = (
            parallel.tensor_parallel_size,
            parallel.pipeline_parallel_size,
            parallel.data_parallel_size,
            parallel.enable_expert_parallel,
        )
        assert degrees == (layout.tp, layout.pp, layout.attn_dp, layout.ep > 1)
        seen = environment["CUDA_VISIBLE_DEVICES"].split(",")
        assert parallel.local_world_size * parallel.data_parallel_size_local == len(seen)
        if layout.attn_dp > 1:
            assert parallel.data_parallel_rank == int(part or 0) * parallel.data_parallel_size_local
        else:
            assert parallel.node_rank_within_dp == int(part or 0)
        assert arguments.max_num_batched_tokens * layout.attn_dp == pool.engine.token_budget
        assert (found.kv_transfer_config is None) == (pool.phase == "aggregated")
        assert_stages(plan, environment, layout.pp, monkeypatch)


def assert_stages(plan: ServingPlan, environment: dict[str, str], pp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own division of layers covers the model with the counts written down."""
    from vllm.distributed.utils import get_pp_indices

    if pp == 1:
        return
    monkeypatch.setenv("VLLM_PP_LAYER_PARTITION", environment["VLLM_PP_LAYER_PARTITION"])
    counts = [int(count) for count in environment["VLLM_PP_LAYER_PARTITION"].split(",")]
    spans = [get_pp_indices(sum(counts), stage, pp) for stage in range(pp)]
    assert [end - start for start, end in spans] == counts


@pytest.mark.parametrize("launcher", ["leaderworkerset", "kserve", "llm-d", "dynamo"])
def test_vllm_reads_the_words_that_pods_pass_it(launcher):
    import shlex

    shape = "a stage a node" if launcher == "leaderworkerset" else "split"
    files = export_plan(plan_of(shape), launcher).files
    container = {
        "leaderworkerset": lambda: next(yaml.safe_load_all(files["leaderworkerset.yaml"]))["spec"][
            "leaderWorkerTemplate"
        ]["leaderTemplate"],
        "kserve": lambda: {"spec": yaml.safe_load(files["llmisvc.yaml"])["spec"]["template"]},
        "llm-d": lambda: yaml.safe_load(files["decode.yaml"])["spec"]["template"],
        "dynamo": lambda: yaml.safe_load(files["dynamo.yaml"])["spec"]["components"][2]["podTemplate"],
    }[launcher]()["spec"]["containers"][0]
    if launcher == "kserve":
        value = next(each["value"] for each in container["env"] if each["name"] == "VLLM_ADDITIONAL_ARGS")
        words = ["/mnt/models", *shlex.split(value)]
    else:
        words = [word for word in container["args"] if word != "--disaggregation-mode"]
        words = words[:-1] if launcher == "dynamo" else words
    found = parsed(["serve", *words])
    assert found.tensor_parallel_size == plan_of(shape).pools[-1].layout.tp
    assert found.max_model_len == -1
    if shape == "split":
        assert found.kv_transfer_config.kv_role == "kv_consumer"


def test_vllm_reads_a_prediction_modules_drafts(tmp_path):
    where = scripts.folder(plan_of("wide experts", drafts=1), "vllm", tmp_path)
    words, _ = scripts.started(where / "aggregated-0-part-0.sh", "VLLM")
    assert parsed(words).speculative_config == {"method": "mtp", "num_speculative_tokens": 1}


def test_vllm_takes_a_hostile_model_name_as_data(tmp_path):
    where = scripts.folder(plan_of("one worker"), "vllm", tmp_path)
    config = yaml.safe_load((where / "aggregated.yaml").read_text())
    name = "/a b\n$(touch owned)/c'd\" #: {x: [*y"
    (where / "aggregated.yaml").write_text(yaml.safe_dump({**config, "model": name}))
    words, _ = scripts.started(where / "aggregated-0.sh", "VLLM")
    found = parsed(words)
    assert name in (found.model, getattr(found, "model_tag", None))


@pytest.mark.parametrize(
    ("key", "value"),
    [("tensor-parallel-size", "four"), ("no-such-option", 1), ("kv-cache-dtype", "int3"), ("max-num-seqs", "many")],
)
def test_vllm_refuses_a_broken_configuration(key, value, tmp_path):
    where = scripts.folder(plan_of("one worker"), "vllm", tmp_path)
    broken = yaml.safe_load((where / "aggregated.yaml").read_text()) | {key: value}
    (where / "aggregated.yaml").write_text(yaml.safe_dump(broken))
    words, _ = scripts.started(where / "aggregated-0.sh", "VLLM")
    with pytest.raises(SystemExit):
        parsed(words)


@pytest.mark.parametrize(("key", "value"), [("tensor-parallel-size", 3), ("data-parallel-size", 0)])
def test_vllm_refuses_degrees_that_the_model_does_not_divide_into(key, value, tmp_path):
    plan = plan_of("one worker")
    model, where = scripts.model_folder(plan, tmp_path), scripts.folder(plan, "vllm", tmp_path)
    broken = yaml.safe_load((where / "aggregated.yaml").read_text()) | {key: value}
    (where / "aggregated.yaml").write_text(yaml.safe_dump(broken))
    words, _ = scripts.started(Path(where / "aggregated-0.sh"), "VLLM")
    with pytest.raises((ValueError, AssertionError)):
        configured(parsed(words, model))

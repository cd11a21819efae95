"""Serving exports say what the plan says, start its workers on its devices in order, and refuse the rest."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

from shardwright.planner import Layout, Load, ServingJob, ServingPlan, estimate_serving, export_plan, plan_serving
from shardwright.planner.errors import InputError
from shardwright.planner.export import exporter, list_exporters
from shardwright.planner.export.base import Context
from shardwright.planner.export.serving_workers import workers
from shardwright.planner.inputs import restored_topology
from tests.serving_plans import backwards, plan_of, with_devices

SERVING = [name for name in list_exporters() if "serving" in exporter(name).kinds]
ENGINES = {"sglang": "sglang", "tensorrt-llm": "trtllm"}


def as_shell_reads(files: dict[str, str], script: str, folder: Path, variable: str) -> tuple[list[str], dict[str, str]]:
    """Words and environment of what a script starts, in the real shell, with the program replaced by a recorder."""
    for name, text in files.items():
        (folder / name).write_text(text)
    recorder = folder / "recorder.py"
    recorder.write_text("import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n")
    found = subprocess.run(
        ["/bin/sh", str(folder / script), "--extra", "it's $HOME"],
        cwd="/",
        env={**os.environ, variable: f"python3 {shlex.quote(str(recorder))}"},
        capture_output=True,
        text=True,
        check=True,
    )
    words, environment = json.loads(found.stdout)
    assert words[-2:] == ["--extra", "it's $HOME"]
    return words[:-2], environment


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def documents(plan: ServingPlan, name: str) -> list[dict]:
    return list(yaml.safe_load_all(export_plan(plan, name).text))


@pytest.mark.parametrize("name", SERVING)
def test_every_exporter_writes_a_folder_with_a_readme_and_states_its_version(name):
    export = export_plan(plan_of("one worker", ENGINES.get(name, "vllm")), name)
    assert export.text
    assert {"README.md", "plan.json"} <= set(export.files)
    assert export.cannot_express
    assert exporter(name).validated_with
    assert exporter(name).name == name


def test_vllm_starts_every_node_of_a_worker_with_its_place_and_devices(tmp_path):
    plan = plan_of("a stage a node")
    files = export_plan(plan, "vllm").files
    config = yaml.safe_load(files["aggregated.yaml"])
    assert (config["tensor-parallel-size"], config["pipeline-parallel-size"]) == (8, 2)
    assert config["model"] == "meta-llama/Llama-3.1-405B"
    first, environment = as_shell_reads(files, "aggregated-1-part-0.sh", tmp_path, "VLLM")
    assert option(first, "--node-rank") == "0"
    assert option(first, "--config") == str(tmp_path / "aggregated.yaml")
    assert "--headless" not in first
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"
    assert environment["VLLM_PP_LAYER_PARTITION"] == "63,63"
    second, _ = as_shell_reads(files, "aggregated-1-part-1.sh", tmp_path, "VLLM")
    assert option(second, "--node-rank") == "1"
    assert "--headless" in second
    assert option(second, "--master-addr") == option(first, "--master-addr") == "dgx-h100-2"


def test_uneven_stages_are_written_down_for_every_engine(tmp_path):
    words = {"vllm": ("VLLM", "VLLM_PP_LAYER_PARTITION"), "sglang": ("PYTHON", "SGLANG_PP_LAYER_PARTITION")}
    for engine, (variable, layers) in words.items():
        files = export_plan(plan_of("uneven stages", engine), engine).files
        _, environment = as_shell_reads(files, "aggregated-0.sh", tmp_path, variable)
        assert environment[layers] == "27,27,26"
    config = documents(plan_of("uneven stages", "trtllm"), "tensorrt-llm")[0]
    assert config["pp_partition"] == [27, 27, 26]


def test_devices_keep_the_order_of_the_plan_where_the_engine_is_started_by_hand(tmp_path):
    for engine, name, variable in (("vllm", "vllm", "VLLM"), ("sglang", "sglang", "PYTHON")):
        files = export_plan(backwards(plan_of("two workers on a node", engine)), name).files
        for number, devices in enumerate(("3,2,1,0", "7,6,5,4")):
            _, environment = as_shell_reads(files, f"aggregated-{number}.sh", tmp_path, variable)
            assert environment["CUDA_VISIBLE_DEVICES"] == devices


def test_vllm_numbers_attention_groups_before_stages(tmp_path):
    files = export_plan(plan_of("groups with stages"), "vllm").files
    _, environment = as_shell_reads(files, "aggregated-0.sh", tmp_path, "VLLM")
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,2,1,3"
    files = export_plan(plan_of("groups with stages", "sglang"), "sglang").files
    _, environment = as_shell_reads(files, "aggregated-0.sh", tmp_path, "PYTHON")
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_limits_are_counted_as_each_engine_counts_them():
    pool = plan_of("wide experts").pools[0]
    vllm = documents(plan_of("wide experts"), "vllm")[0]
    assert vllm["max-num-seqs"] * 16 == pool.engine.max_sequences
    assert vllm["data-parallel-size"] == 16
    assert vllm["enable-expert-parallel"] is True
    pool = plan_of("wide experts", "sglang").pools[0]
    sglang = documents(plan_of("wide experts", "sglang"), "sglang")[0]
    assert sglang["max-running-requests"] == pool.engine.max_sequences
    assert (sglang["tp-size"], sglang["attn-dp-size"], sglang["ep-size"]) == (16, 16, 16)
    static = pool.memory["weights"] + pool.memory["kv cache"]
    assert 0 <= static / pool.capacity_bytes - sglang["mem-fraction-static"] < 1e-3
    trtllm = documents(plan_of("wide experts", "trtllm"), "tensorrt-llm")[0]
    assert trtllm["enable_attention_dp"] is True
    assert (trtllm["tensor_parallel_size"], trtllm["moe_expert_parallel_size"]) == (16, 16)


def test_formats_reach_the_engine(tmp_path):
    config = documents(plan_of("two workers on a node"), "vllm")[0]
    assert (config["quantization"], config["kv-cache-dtype"]) == ("fp8", "fp8")
    config = documents(plan_of("two workers on a node", "sglang"), "sglang")[0]
    assert (config["quantization"], config["kv-cache-dtype"]) == ("fp8", "fp8_e4m3")
    assert "quantization" not in documents(plan_of("wide experts"), "vllm")[0]  # its checkpoint is in fp8 itself


def test_a_prediction_module_drafts_tokens_in_every_engine():
    options = [
        documents(plan_of("wide experts", engine, drafts=2), name)[0]
        for engine, name in (("vllm", "vllm"), ("sglang", "sglang"), ("trtllm", "tensorrt-llm"))
    ]
    assert options[0]["speculative-config"] == {"method": "mtp", "num_speculative_tokens": 2}
    assert options[1]["speculative-num-draft-tokens"] == 3
    assert options[2]["speculative_config"]["num_nextn_predict_layers"] == 2


def test_split_pools_get_their_roles_and_a_router_that_knows_them(tmp_path):
    files = export_plan(plan_of("split"), "vllm").files
    roles = [yaml.safe_load(files[f"{phase}.yaml"])["kv-transfer-config"]["kv_role"] for phase in ("prefill", "decode")]
    assert roles == ["kv_producer", "kv_consumer"]
    words, _ = as_shell_reads(files, "router.sh", tmp_path, "VLLM_ROUTER")
    assert words.count("--prefill") == 2
    assert option(words, "--decode").endswith(":8100") or option(words, "--decode").endswith(":8102")
    ports = [as_shell_reads(files, f"{w}.sh", tmp_path, "VLLM")[0] for w in ("prefill-0", "prefill-1", "decode-0")]
    assert len({option(each, "--port") for each in ports}) == 3
    served = {f"http://dgx-h100:{option(each, '--port')}" for each in ports}
    assert served == {word for word in words if word.startswith("http")}


def test_sglang_tells_its_router_the_bootstrap_port_of_every_prefill_worker(tmp_path):
    files = export_plan(plan_of("split", "sglang"), "sglang").files
    words, _ = as_shell_reads(files, "router.sh", tmp_path, "PYTHON")
    for number in range(2):
        worker, _ = as_shell_reads(files, f"prefill-{number}.sh", tmp_path, "PYTHON")
        url = f"http://dgx-h100:{option(worker, '--port')}"
        assert words[words.index(url) + 1] == option(worker, "--disaggregation-bootstrap-port")


def test_tensorrt_llm_runs_a_worker_of_two_nodes_as_one_mpirun(tmp_path):
    files = export_plan(backwards(plan_of("tp over nodes", "trtllm")), "tensorrt-llm").files
    words, _ = as_shell_reads(files, "aggregated-0.sh", tmp_path, "MPIRUN")
    parts = " ".join(words).split(" : ")
    assert [part.split()[3] for part in parts] == [f"gb200-nvl72-{node}:4" for node in (1, 0)]
    assert all("env CUDA_VISIBLE_DEVICES=3,2,1,0 trtllm-llmapi-launch" in part for part in parts)
    prefill, decode, server = documents(plan_of("split", "trtllm"), "tensorrt-llm")
    assert server["context_servers"]["num_instances"] == len(server["context_servers"]["urls"]) == 2
    assert prefill["cache_transceiver_config"]["max_tokens_in_buffer"] >= 1000
    assert decode["cache_transceiver_config"] == prefill["cache_transceiver_config"]


def test_a_host_script_starts_all_workers_of_its_host(tmp_path):
    files = export_plan(plan_of("split"), "vllm").files
    assert [name for name in files if name.startswith("host-")] == ["host-0.sh"]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "fake").write_text("#!/bin/sh\necho started\n")
    (tmp_path / "fake").chmod(0o755)
    subprocess.run(
        ["/bin/sh", "host-0.sh"], cwd=tmp_path, env={**os.environ, "VLLM": str(tmp_path / "fake")}, check=True
    )
    logs = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert logs == ["decode-0.sh.log", "prefill-0.sh.log", "prefill-1.sh.log"]
    assert all("started" in (tmp_path / "logs" / name).read_text() for name in logs)


def test_dynamo_has_a_component_a_pool_and_counts_nodes():
    graph = documents(plan_of("split"), "dynamo")[0]
    found = {each["name"]: each for each in graph["spec"]["components"]}
    assert [each["type"] for each in graph["spec"]["components"]] == ["frontend", "prefill", "decode"]
    assert found["prefill"]["replicas"] == 2
    main = found["decode"]["podTemplate"]["spec"]["containers"][0]
    assert main["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert option(main["args"], "--kv-transfer-config.kv_role") == "kv_consumer"
    wide = documents(plan_of("wide experts", "sglang"), "dynamo")[0]["spec"]["components"][1]
    assert wide["multinode"] == {"nodeCount": 2}


def test_leader_worker_sets_join_the_pods_of_a_worker_by_their_leader():
    group, service = documents(plan_of("a stage a node"), "leaderworkerset")
    spec = group["spec"]["leaderWorkerTemplate"]
    assert (group["spec"]["replicas"], spec["size"]) == (2, 2)
    leader, worker = (spec[f"{role}Template"]["spec"]["containers"][0] for role in ("leader", "worker"))
    assert "--headless" in worker["command"][2]
    assert "--headless" not in leader["command"][2]
    assert service["spec"]["selector"]["leaderworkerset.sigs.k8s.io/worker-index"] == "0"


def test_kserve_counts_ranks_in_its_own_words():
    spec = documents(plan_of("wide experts, split"), "kserve")[0]["spec"]
    for workload in (spec, spec["prefill"]):
        assert workload["parallelism"] == {"tensor": 1, "data": 16, "dataLocal": 8, "expert": True}
        assert workload["worker"] == workload["template"]
    assert spec["model"]["uri"] == "hf://deepseek-ai/DeepSeek-V3"
    assert documents(plan_of("a stage a node"), "kserve")[0]["spec"]["parallelism"] == {"tensor": 8, "pipeline": 2}


def test_ray_serve_builds_the_application_the_plan_needs():
    builders = {"one worker": "build_openai_app", "split": "build_pd_openai_app", "wide experts": "build_dp_openai_app"}
    for shape, builder in builders.items():
        application = documents(plan_of(shape), "ray-serve")[0]["applications"][0]
        assert application["import_path"] == f"ray.serve.llm:{builder}"
    config = documents(plan_of("split"), "ray-serve")[0]["applications"][0]["args"]["decode_config"]
    assert config["engine_kwargs"]["tensor_parallel_size"] == len(config["placement_group_config"]["bundles"]) == 4


def test_llm_d_puts_a_proxy_before_decode_workers_alone():
    export = export_plan(plan_of("split"), "llm-d")
    pods = {name: yaml.safe_load(export.files[f"{name}.yaml"]) for name in ("prefill", "decode")}
    for name, document in pods.items():
        template = document["spec"]["template"]
        assert template["metadata"]["labels"]["llm-d.ai/role"] == name
        assert ("initContainers" in template["spec"]) == (name == "decode")
    values = yaml.safe_load(export.files["router.values.yaml"])["router"]
    assert values["modelServers"]["matchLabels"].items() <= pods["decode"]["metadata"]["labels"].items()
    assert yaml.safe_load(values["epp"]["pluginsCustomConfig"]["pd-config.yaml"])["kind"] == "EndpointPickerConfig"


@pytest.mark.parametrize(
    ("shape", "engine", "name", "word"),
    [
        ("one worker", "sglang", "vllm", "plan again with --engine vllm"),
        ("experts split both ways", "vllm", "vllm", "moe_tp"),
        ("groups with tp", "trtllm", "tensorrt-llm", "attn_dp 4 with tp 2"),
        ("split", "vllm", "leaderworkerset", "between prefill and decode"),
        ("tp over nodes", "vllm", "kserve", "a stage a node"),
        ("groups with stages", "vllm", "dynamo", "order the devices"),
    ],
)
def test_what_a_launcher_cannot_run_is_refused_not_dropped(shape, engine, name, word):
    with pytest.raises(InputError, match=word):
        export_plan(plan_of(shape, engine), name)


def test_formats_that_only_a_checkpoint_can_have_are_refused_without_one():
    for engine, name, formats in (("vllm", "vllm", "w4a16"), ("trtllm", "tensorrt-llm", "fp8")):
        with pytest.raises(InputError, match="checkpoint"):
            export_plan(plan_of("one worker", engine, formats), name)


def test_a_plan_for_another_version_of_the_engine_says_so():
    plan = msgspec.structs.replace(plan_of("one worker"), engine_version="0.6.3")
    assert any("0.6.3" in note for note in export_plan(plan, "vllm").cannot_express)


def test_speculation_without_a_prediction_module_is_refused():
    with pytest.raises(InputError, match="draft model"):
        export_plan(plan_of("one worker", drafts=1), "vllm")


def test_decoders_of_several_stages_are_refused_where_the_cache_cannot_reach_them():
    plan = plan_of("split with stages")
    swapped = {"prefill": "decode", "decode": "prefill"}
    turned = tuple(msgspec.structs.replace(pool, phase=swapped[pool.phase]) for pool in plan.pools)
    with pytest.raises(InputError, match="decode pool"):
        export_plan(msgspec.structs.replace(plan, pools=turned), "vllm")


@pytest.mark.parametrize("mode", ["shared", "afd", "mixed"])
def test_modes_that_no_engine_has_are_refused(mode):
    load = Load(isl=1000, osl=20, concurrency=4, rounds=2)
    if mode == "mixed":
        pools = [("aggregated", Layout(tp=2), 1), ("prefill", Layout(tp=2), 1), ("decode", Layout(tp=4), 1)]
        plan = estimate_serving("llama-3.1-8b", "dgx-h100:1", ServingJob(load=load), pools)
    else:
        plan = plan_serving("llama-3.1-8b", "dgx-h100:1", ServingJob(load=load, mode=mode))
    assert plan.mode == mode
    with pytest.raises(InputError, match="--mode"):
        export_plan(plan, "vllm")


def test_workers_on_uneven_parts_of_hosts_are_refused():
    plan = plan_of("a stage a node")
    first = (*range(7), *range(8, 17))
    with pytest.raises(InputError, match="equally many"):
        export_plan(with_devices(plan, (first, (*range(17, 32), 7))), "vllm")


def test_workers_that_share_only_their_second_host_have_ports_of_their_own():
    plan = plan_of("a stage a node")
    halves = (*range(4, 8), *range(8, 12)), (*range(12, 16), *range(16, 20))
    layout = Layout(tp=4, pp=2)
    pools = tuple(msgspec.structs.replace(pool, layout=layout) for pool in plan.pools)
    shifted = with_devices(msgspec.structs.replace(plan, pools=pools), halves)
    found = workers(Context(shifted, None, restored_topology(plan)), "vllm")
    assert [[part.node for part in worker.parts] for worker in found] == [[0, 1], [1, 2]]
    assert found[0].slot != found[1].slot

"""Rows with the columns of a table of measured training runs, as small as the tests need."""

from __future__ import annotations

_HEADER = (
    "id,task,model,params_B,layers,hidden,heads,kv_heads,ffn,vocab,seq,experts,topk,moe_ffn,gpu,num_gpus,nodes,"
    "interconnect,tp,sp,cp,pp,vpp,ep,dp,mbs,gbs,precision,recompute,zero_distopt,metric,value,rep_iter_time_s,"
    "rep_tokens_per_s_per_gpu,rep_tflops_per_gpu,rep_mfu_pct,flops_convention,derived_tokens_per_s_per_gpu,"
    "memory_GB_per_gpu,memory_kind,framework,source,source_url_or_doc,source_confidence,notes"
)
COLUMNS = tuple(_HEADER.split(","))

GPT = {
    "id": "gpt-0",
    "task": "pretrain",
    "model": "gpt-18B",
    "layers": "40",
    "hidden": "6144",
    "heads": "48",
    "kv_heads": "48",
    "ffn": "24576",
    "vocab": "51200",
    "seq": "2048",
    "gpu": "A100-80GB",
    "num_gpus": "64",
    "nodes": "8",
    "interconnect": "NVLink3 + 8x200Gb HDR IB",
    "tp": "8",
    "sp": "0",
    "cp": "1",
    "pp": "2",
    "vpp": "1",
    "ep": "1",
    "dp": "4",
    "mbs": "2",
    "gbs": "256",
    "precision": "FP16",
    "recompute": "full",
    "zero_distopt": "none",
    "rep_iter_time_s": "13.5",
    "framework": "Megatron-LM",
    "source": "somebody's table",
}


def row(**changes: str) -> dict[str, str | None]:
    """The GPT row with some cells changed; a blank cell for every column not given."""
    return dict.fromkeys(COLUMNS, "") | GPT | changes

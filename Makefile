# Everything a user or the CI types. `make` alone lists it. Versions stand in pyproject.toml alone.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished
DASHBOARD ?= 1
REQUIRED_PYTHON := $(shell sed -n 's/^requires-python *= *">=\([0-9.]*\)".*/\1/p' pyproject.toml)

# Threads that spin while they wait make small convolutions 5-15 times slower on a shared machine.
OMP_WAIT_POLICY ?= passive
MLFLOW_DISABLE_TELEMETRY ?= true
export OMP_WAIT_POLICY MLFLOW_DISABLE_TELEMETRY

.PHONY: help install demo test test-slow bench-gpu lint doctor clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "  %-16s %s\n", $$1, $$2 }'

install: $(INSTALLED)  ## set up .venv (done by every other target that needs it)

demo: $(INSTALLED)  ## train and compare the rules on generated videos, print the table, serve the dashboard (DASHBOARD=0: no serving)
	@$(BIN)/skip-sideways compare --config app/configs/comparisons/demo.yaml
	@if [ "$(DASHBOARD)" = 0 ]; then \
		echo "Next: type '$(BIN)/skip-sideways dashboard' to see these runs in your browser."; \
	else \
		echo "Next: open the address below in your browser; Ctrl-C here ends it."; \
		exec $(BIN)/skip-sideways dashboard; \
	fi

# One thread for each process: the tests are small and may share the machine.
TEST_PROCESSES ?= 2
PYTEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

test: export OMP_NUM_THREADS ?= 1
test: $(INSTALLED)  ## run every test that is not slow (TEST_PROCESSES=8: with eight processes; two by default)
	@$(PYTEST) -m "not slow"

test-slow: export OMP_NUM_THREADS ?= 1
test-slow: $(INSTALLED)  ## run the slow tests
	@$(PYTEST) -m slow

# A machine with a GPU often has its own build of torch: nothing is installed for this. .venv is used where it is there.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
GPU_BENCH ?= --network vgg8 --batch 4 --size 112 --frames 16 64

bench-gpu:  ## on a machine with a GPU: test the CUDA graphs, then measure into benchmarks/gpu
	@$(GPU_PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || { echo "make: $(GPU_PYTHON) has no torch that sees a CUDA device: on a machine with one, type 'make bench-gpu GPU_PYTHON=/path/to/python3'" >&2; exit 1; }
	@$(GPU_PYTHON) -m pytest tests/lightning_modules/execution/test_cuda_tick.py
	@$(GPU_PYTHON) -m app.cli bench --device cuda $(GPU_BENCH) --output benchmarks/gpu

lint: $(INSTALLED)  ## ruff (lint and format) and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

doctor: $(INSTALLED)  ## check this machine; each failing line says what to type
	@$(BIN)/skip-sideways doctor

clean:  ## remove .venv and caches; your runs (mlflow.db, mlartifacts) stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last. An install that was broken off leaves $(UNFINISHED) behind and starts again from nothing.
$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' here: install Python $(REQUIRED_PYTHON) or newer, or type 'make PYTHON=/path/to/python3 $(MAKECMDGOALS)'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < tuple(map(int, "$(REQUIRED_PYTHON)".split("."))))' || { echo "make: $$($(PYTHON) --version) is too old, expected $(REQUIRED_PYTHON) or newer: type 'make PYTHON=/path/to/newer/python3 $(MAKECMDGOALS)'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments: on Debian or Ubuntu type 'sudo apt-get install python3-venv'" >&2; exit 1; }
	@echo "Setting up $(VENV): 2 GB or more, a few minutes, once."
	@if [ -e $(UNFINISHED) ] || ! $(BIN)/python -c '' 2>/dev/null; then $(PYTHON) -m venv --clear $(VENV); fi
	@touch $(UNFINISHED)
	@{ PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' && rm $(UNFINISHED); } 2>&1 \
		| tee $(VENV)/install.log \
		| grep --line-buffered -oE '^ *Downloading [^ ]+ \([0-9]{2,}\.[0-9]+ [MG]B\)|^Installing collected packages' || true
	@test ! -e $(UNFINISHED) || { grep -v '^WARNING' $(VENV)/install.log | tail -n 15 >&2; \
		echo "make: the install did not finish (the reason stands above): mend it and type 'make $(MAKECMDGOALS)' again" >&2; exit 1; }
	@touch $@
	@echo "Set up."

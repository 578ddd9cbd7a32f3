# make run: set up and measure on this machine.   make test: set up and test.   make ui: look at the results.
# Everything lives in .venv and outputs/; nothing needs root but test-system.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PORT ?= 5000
READY := .venv/.ready
# Tests wait for processes about as long as they compute. Neighbours stay together, since they share what a file sets up.
PARALLEL := -n logical --maxprocesses 4 --dist worksteal
SYSTEM := -o addopts="-q --strict-markers" -n 2

.PHONY: help run ui setup test system test-system reliability lint lock clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; install it, then type: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: Python's venv is missing; type: sudo apt install python3-venv" >&2; exit 2; }
	@echo "setting up .venv (a few minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements/lock.txt  # what is imported is compiled then
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

# 20%: a first look, on processors that do other things as well; the default asks for 1%
run: $(READY)  ## measure the default job on this machine and record it: NSA decoding against dense attention
	@$(BIN)/python -m runner measure.target=0.2 $(ARGS)

ui: $(READY)  ## open the MLflow UI on what was recorded (port 5000, or make ui PORT=...)
	@echo "ready in some 25 s: http://127.0.0.1:$(PORT)"
	@$(BIN)/python -m mlflow ui --backend-store-uri sqlite:///$(CURDIR)/outputs/mlflow.db --port $(PORT)

setup: $(READY)  ## only set up .venv

test: $(READY)  ## run the tests that need no root, no GPU and no account
	@$(BIN)/python -m pytest $(PARALLEL) -m "not long" $(ARGS)

system:  ## only install what needs root: Chromium, Slurm
	@tests/system/install

test-system: $(READY) system  ## install what needs root (Chromium, Slurm) and run the end-to-end tests
	@CROSSOVER_SYSTEM=1 $(BIN)/python -m pytest $(SYSTEM) -m "not long" tests/system $(ARGS)

reliability: $(READY) system  ## all long tests; every fault injected, rented runs in the Slurm lab (some 50 min); writes docs/reliability.md
	@$(BIN)/python -m pytest $(PARALLEL) -m long
	@CROSSOVER_SYSTEM=1 CROSSOVER_RELIABILITY=docs/reliability.md $(BIN)/python -m pytest -o addopts="-q --strict-markers" \
		--ignore=tests/system/test_browser.py tests/system $(ARGS)

lint: $(READY)  ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

lock:  ## resolve pyproject.toml anew into requirements/lock.txt
	@requirements/relock $(PYTHON)

clean:  ## remove .venv and caches, keep outputs/
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

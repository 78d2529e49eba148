# The two commands of a fresh machine: `make train` and `make test`. Each installs first, once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := rlhf_gym envs agents feedback
CODE := $(SOURCES) tests $(wildcard examples benchmarks)

# make train ENV=Swimmer-v5 LABELS=300 SEED=7 ARGS="--algo ppo"
ENV ?= rlhf_gym/HalfCheetah-v0
LABELS ?= 700
SEED ?= 0
ARGS ?=

.PHONY: help install train test test-slow check format typecheck bench clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed ## Create .venv and install everything, once

# The stamp is newer than what it depends on only after an install that went well.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name it: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip 'setuptools>=77'
	$(BIN)/python -m pip install -e '.[dev]' -c constraints.txt
	touch $@

train: install ## Train HalfCheetah from 700 synthetic preferences into a new folder below runs/
	$(BIN)/rlhf-gym train --env $(ENV) --labels $(LABELS) --seed $(SEED) $(ARGS)

# A worker per core; what a file's tests share is made once, since one worker runs all of them.
test: install ## Run the tests (ARGS="tests/core -x" for a part)
	$(BIN)/pytest -n auto --dist loadfile $(ARGS)

test-slow: install ## Run the learning and fault-injection tests, minutes to an hour
	$(BIN)/pytest -m slow --timeout 3600 $(ARGS)

check: install ## Everything that must be green before a commit
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(MAKE) typecheck
	$(MAKE) test

typecheck: install ## mypy --strict over all four rooms, through links (see scripts/link_tree.sh)
	scripts/link_tree.sh
	MYPYPATH=build/typecheck $(BIN)/mypy -p rlhf_gym --explicit-package-bases

format: install ## Format the code and sort its imports
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: install ## Repeat the measurements of benchmarks/ in runs/bench, hours
	@test -f benchmarks/run_all.sh || { echo "benchmarks/run_all.sh is not there"; exit 1; }
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/run_all.sh

clean: ## Remove what was built; .venv and runs stay
	rm -rf build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

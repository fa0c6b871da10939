# Two commands matter: `make demo` and `make test`. Both set up .venv first.
SHELL := bash
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo serve test lint types layers ui bench clean

help: ## Show what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=/path/to/python3.11."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --progress-bar off -c constraints.txt -e '.[dev]'
	touch $(STAMP)

install: $(STAMP) ## Make .venv and install everything, pinned

demo: $(STAMP) ## A small world with planted causes: train, register, diagnose (about 3 minutes)
	$(BIN)/ilp demo

serve: $(STAMP) ## MLflow and the service on 127.0.0.1: register a version, and it is diagnosed; Ctrl-C stops both
	@$(BIN)/python scripts/serve.py $(SERVE_ARGS)

test: $(STAMP) ## All tests
	@bash scripts/install-chromium
	@sh scripts/install-postgresql
	# Tests wait for servers and processes a good deal: three at once keep two cores busy.
	$(BIN)/python -m pytest -n 3 --dist worksteal $(PYTEST_ARGS)

lint: $(STAMP) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

layers: $(STAMP) ## import-linter
	$(BIN)/lint-imports

ui: $(STAMP) ## Look at the results in the MLflow UI, http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/mlruns/mlflow.db --host 127.0.0.1 --port 5000

bench: $(STAMP) ## Scoring speed and accuracy beside lm-eval
	$(BIN)/python -m pip install --quiet --progress-bar off -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/scoring.py

clean: ## Remove .venv and caches; results under mlruns/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

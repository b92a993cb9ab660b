# Trimtab: every task a developer or user runs. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help up down test check fmt bench dev clean

help:  ## Show this list
	@grep -hE '^[a-z.]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z.]+):.*## /\1\t/' | expand -t 10

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Installing Python packages into $(VENV) (about a minute the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m tuner.serving.replay.compile
	@touch $@

.venv: $(VENV)/.ready

up:  ## Start a cluster on this machine, install Trimtab, deploy the sample (KUBECONFIG= REGISTRY= for your own cluster)
	@# KUBECONFIG counts only when given to make: an exported one must not send a plain `make up` to some other cluster.
	@$(PYTHON) -m devcluster up $(if $(filter command,$(origin KUBECONFIG)),--kubeconfig $(KUBECONFIG)) $(if $(REGISTRY),--registry $(REGISTRY))

down:  ## Stop the cluster and remove every process, mount, namespace and rule it made
	@$(PYTHON) -m devcluster down

# Tests get a cluster of their own, so that a development cluster beside them is left alone.
TEST_CLUSTER ?= test
test: check  ## Prove it: lint, types, unit and engine tests, then the real cluster (its own; KEEP=1 leaves it running)
	@$(BIN)/pytest -m 'not cluster'
	@engines/openvino/run-tests.sh
	@tests/on-cluster.sh $(TEST_CLUSTER)

check: $(VENV)/.ready  ## Lint, types, import directions, generated files
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m operators.crds --check

fmt: $(VENV)/.ready  ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .

bench: $(VENV)/.ready  ## Run one benchmark: make bench B=placement (B=list shows all)
	@$(BIN)/python -m tests.perf $(B)

dev: $(VENV)/.ready  ## Install the pre-commit hooks
	@$(BIN)/pre-commit install

clean:  ## Remove build products of this tree (the cluster's build cache stays; `make down` stops the cluster)
	@rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

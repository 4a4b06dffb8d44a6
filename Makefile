# Everything here works from a clean clone. What is made lies in a cache outside the checkout:
# GOODPUT_CACHE, else ~/.cache/goodput. pip and Go are used as their environment configures them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CACHE := $(or $(GOODPUT_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/goodput)
OLDEST := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	if $$name -c '$(OLDEST)' 2>/dev/null; then echo $$name; break; fi; done)
WHAT_PYTHON := $(if $(PYTHON),$(shell $(PYTHON) -VV 2>&1 | tr '\n' ' '))
KEY := $(shell { cat requirements-dev.lock; echo '$(WHAT_PYTHON)'; } | sha256sum | cut -c1-16)
VENV := $(CACHE)/venv-$(KEY)
READY := $(VENV)/complete
BIN := $(VENV)/bin
PY := $(BIN)/python
UV_VERSION := 0.13.9

define CRD_IS_GENERATED
import sys
from crds.generate import TARGETS, rendered
old = [str(target) for target in TARGETS if target.read_text() != rendered()]
sys.exit(f"not the generated CRD, run make crds: {old}" if old else 0)
endef
export CRD_IS_GENERATED

# The checkout stays clean: no tool keeps its cache in it.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CACHE)/pycache
export MYPY_CACHE_DIR := $(CACHE)/mypy
export RUFF_CACHE_DIR := $(CACHE)/ruff
export HYPOTHESIS_STORAGE_DIRECTORY := $(CACHE)/hypothesis
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PYTEST := $(PY) -m pytest -p no:cacheprovider

.PHONY: help
help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## watch a job of 4 workers survive a killed rank and a lost node (KEEP=1: leave it up)
	@$(PY) -m e2e.demo

.PHONY: test
test: $(READY) ## everything: lint, unit, contract, e2e; makes a cluster and removes it again
	@$(PY) -m e2e.support.suite

.PHONY: lint
lint: $(READY) ## style, types, import layers, and that what is generated is up to date
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/mypy e2e crds monitoring
	@PYTHONPATH=operator $(BIN)/lint-imports --no-cache --no-logo
	@$(PY) -c "$$CRD_IS_GENERATED"
	@$(PY) -m monitoring --check

.PHONY: unit
unit: $(READY) ## the tests that need no cluster
	@$(PYTEST) -q tests --ignore=tests/contract

.PHONY: sweep-sim
sweep-sim: $(READY) ## a fault at every write of every simulated scenario (SEED=n; REPLAY=plan: one again)
	@PYTHONPATH=operator:. $(PY) -m tests.simulation.sweep

.PHONY: contract
contract: $(READY) ## the tests that need an API server: the cluster that is up, else one for the time
	@$(PYTEST) -q tests/contract

.PHONY: sweep
sweep: $(READY) ## fail every write of every scenario on a real API server (PLAN=names, or how they begin: those)
	@PYTHONPATH=operator $(PY) -m tests.sweep \
		$(if $(PLAN),--plan '$(PLAN)',--result RELIABILITY.sweep.json)

.PHONY: e2e
e2e: $(READY) ## the tests that train on real nodes: the cluster that is up, else one for the time
	@$(PYTEST) -v e2e

.PHONY: seeded-bugs
seeded-bugs: $(READY) ## plant each of many bugs, and see that a test finds it (VARIANT=name: one)
	@$(PY) -m tests.seeded $(if $(VARIANT),--variant $(VARIANT))

.PHONY: mutants
mutants: $(READY) ## change a module in every small way, and see that a test notices: WHERE=path
	@test -n "$(WHERE)" || { echo "which module? make mutants WHERE=path"; exit 2; }
	@$(PY) -m tests.mutation $(WHERE)

.PHONY: bench
bench: $(READY) ## run one benchmark: make bench BENCH=name
	@test -n "$(BENCH)" || { echo "which one? make bench BENCH=name; there are:"; \
		ls e2e/bench/*.py 2>/dev/null | sed 's|.*/|  |; s|\.py$$||; s|_|-|g' | grep -v -e --init || true; exit 2; }
	@PYTHONPATH=operator $(PY) -m e2e.bench.$(subst -,_,$(BENCH))

.PHONY: fuzz
fuzz: $(READY) ## TrainingJobs of every kind, 100,000 pure and 2,000 on a real API server (SEED=, CASE=)
	@PYTHONPATH=operator $(PY) -m tests.fuzz $(if $(SEED),--seed=$(SEED)) $(if $(CASE),--case=$(CASE)) $(FUZZ)

.PHONY: checkpoint-durability
checkpoint-durability: $(READY) ## kill, corrupt, refuse: no committed checkpoint is lost (SEED=n)
	@PYTHONPATH=operator $(PY) -m tests.durability --seed $(or $(SEED),0)

.PHONY: bundle
bundle: $(READY) ## dist/: the chart, all of it as one file, kubectl goodput (PLUGIN_URL=u: for krew, too)
	@$(PY) -m e2e.support.bundle $(PLUGIN_URL)

.PHONY: plugin
plugin: $(READY) ## dist/: kubectl goodput alone, as an archive (PLUGIN_URL=where it is published: for krew, too)
	@$(PY) -m e2e.support.plugin $(PLUGIN_URL)

.PHONY: cluster-up
cluster-up: $(READY) ## a Kubernetes of 3 nodes on this machine; says how to use it
	@$(PY) -m e2e.cluster up

.PHONY: cluster-down
cluster-down: $(READY) ## remove that cluster
	@$(PY) -m e2e.cluster down

.PHONY: crds
crds: $(READY) ## write the CRD, here and in the chart, from the models
	@$(PY) crds/generate.py

.PHONY: dashboards
dashboards: $(READY) ## write rules, dashboards and metrics.md; draw every panel from jobs on real nodes
	@PYTHONPATH=operator $(PY) -m monitoring
	@PYTHONPATH=operator $(PY) -m monitoring.pictures

.PHONY: lock
lock: $(CACHE)/uv-$(UV_VERSION)/bin/uv ## pin the dependencies anew (UPGRADE=1: to the newest that fit)
	@for out in requirements requirements-dev; do \
		echo "pinning $$out.lock"; \
		$< pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--no-header --annotation-style line $(if $(UPGRADE),--upgrade) pyproject.toml \
			$$([ $$out = requirements ] || echo "--extra cli --group dev -c requirements.lock") -o $$out.lock; \
	done

.PHONY: clean
clean: ## remove what was made in the checkout, and the virtual environments
	@rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -rf $(CACHE)/venv-* $(CACHE)/uv-*
	@echo "left: the cluster's programs and images in $(CACHE), which may be deleted at any time"

$(READY):
	@.ci/make-venv "$(PYTHON)" "$(VENV)" --require-hashes -r requirements-dev.lock

$(CACHE)/uv-$(UV_VERSION)/bin/uv:
	@.ci/make-venv "$(PYTHON)" "$(CACHE)/uv-$(UV_VERSION)" uv==$(UV_VERSION)

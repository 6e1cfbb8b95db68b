# `make` lists what there is. Everything needs nothing but a Debian 12 with make and python3; see scripts/setup.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PYTHON := $(BIN)/python
PYTEST := $(PYTHON) -m pytest
ARGS ?=
SOURCES := src tests $(wildcard benches)

# Network namespaces, sandboxes and mounts are made by root alone.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env)
define root_why
@[ "$$(id -u)" = 0 ] || echo "Asking for root: network namespaces and sandboxes can be made by root only." >&2
endef

COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-index-url

.PHONY: help setup setup-tests check format unit contract integration e2e test survive demo up doctor bench lock clean uninstall

help: ## List these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)$$/\1\t\2/p' $(MAKEFILE_LIST) \
		| while IFS=$$'\t' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

setup: ## Make .venv from the locks and install the engines that are missing
	@scripts/setup

setup-tests: ## The same, with the engines that only the tests use
	@scripts/setup --for-tests

check: setup ## Format, lints, types and the arrows between packages
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format and mend what can be mended
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

unit: setup ## Tests that need nothing (ARGS="-k name" chooses)
	$(PYTEST) tests/unit $(ARGS)

contract: setup-tests ## Every driver and its fake against their port
	$(root_why)
	$(SUDO) $(PYTEST) tests/contract $(ARGS)

integration: setup-tests ## API, services and store on SQLite and PostgreSQL
	$(root_why)
	$(SUDO) $(PYTEST) tests/integration $(ARGS)

e2e: setup-tests ## A real cloud: deploy, scale, crash, roll back
	$(root_why)
	$(SUDO) $(PYTEST) tests/e2e $(ARGS)

test: setup-tests ## Every test but the long ones
	$(root_why)
	$(SUDO) $(PYTEST) -n 2 --dist loadfile --reruns 1 -m "not long" --durations 15 $(ARGS)

survive: setup-tests ## The long tests: killed at every step, attacked from inside builds
	$(root_why)
	$(SUDO) $(PYTEST) -m long tests/e2e $(ARGS)

demo: setup ## Show it all in a cloud of its own, and leave nothing behind
	$(root_why)
	@$(SUDO) $(PYTHON) -m shellwego.processes.demo $(ARGS)

up: setup ## Run a cloud on this machine until Ctrl-C (ARGS="--domain example.org")
	$(root_why)
	@$(SUDO) $(BIN)/shellwego up $(ARGS)

doctor: setup ## Try everything that a cloud needs of this machine
	$(root_why)
	@$(SUDO) $(BIN)/shellwego doctor $(ARGS)

bench: setup-tests ## Measure beside peers, as ratios in one run
	$(root_why)
	@$(BIN)/uv pip install --quiet --python $(PYTHON) --no-deps --require-hashes -r requirements/bench.txt
	@$(SUDO) $(PYTHON) -m benches $(ARGS)

lock: setup ## Lock the dependencies again (ARGS=--upgrade takes newer ones)
	$(COMPILE) pyproject.toml -o requirements/run.txt $(ARGS)
	$(COMPILE) --extra dev pyproject.toml -c requirements/run.txt -o requirements/dev.txt $(ARGS)
	$(COMPILE) --extra bench pyproject.toml -c requirements/run.txt -c requirements/dev.txt -o requirements/bench.txt $(ARGS)
	awk '/^uv==/ { inside = 1 } inside { print } inside && !/\\$$/ { exit }' requirements/dev.txt > requirements/uv.txt

clean: ## Remove .venv and every cache in this folder; clouds and engines stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

uninstall: setup ## Remove the cloud of /var/lib/shellwego (asks first), the engines that were built, and .venv
	$(root_why)
	@[ ! -e /var/lib/shellwego ] || $(SUDO) $(BIN)/shellwego uninstall
	@$(SUDO) $(BIN)/shellwego engines remove
	@$(MAKE) clean

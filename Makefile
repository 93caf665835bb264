# make demo and make test set up all they need on a fresh Debian or Ubuntu machine.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PYTEST := $(BIN)/pytest
LONGEST := --durations=15 --durations-min=10
export UV_SYSTEM_CERTS := true
# Six workers would else compile every test, each for itself.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test test-unit test-lab lint format lab-up lab-down soak bench clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(BIN)/.ready ## Make .venv with fleet and its locked tools

$(BIN)/.ready: pyproject.toml requirements/dev.txt
	@lab/bin/need python3 python3-venv git
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -oE '^uv==[0-9.]+' requirements/dev.txt)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

setup-test: setup
	@lab/bin/need docker-cli haproxy nginx socat openssh-server openssh-client chromium curl sslscan

demo: setup ## Build the lab, provision it, show its status, translate, upgrade it under load
	@$(SUDO) env PATH="$(CURDIR)/$(BIN):$$PATH" lab/bin/demo

lab-up: setup ## Start the lab's bare hosts
	$(SUDO) $(BIN)/fleet lab up

lab-down: setup ## Remove the lab
	$(SUDO) $(BIN)/fleet lab down

lint: setup ## Style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Let ruff arrange the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-unit: setup-test ## The fast tests alone (under a minute)
	@[ -d tests/unit/__pycache__ ] || $(PYTEST) tests/unit --collect-only -qq >/dev/null
	$(PYTEST) tests/unit -n 6 --dist worksteal

# Lab tests mostly wait, so two labs are worked on at once; those that measure come after, alone.
test-lab: setup-test ## The tests on real hosts
	$(SUDO) env PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) tests/lab -m "not alone" $(LONGEST) \
	  -n 2 --dist loadfile --no-loadscope-reorder
	$(SUDO) env PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) tests/lab -m alone $(LONGEST)

test: setup-test ## Everything: lint, fast tests, lab tests
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory test-unit
	$(MAKE) --no-print-directory test-lab

soak: setup-test ## Balancer and upgrades at full length (two hours); writes docs/soak.md
	@mkdir -p build && rm -f build/soak.jsonl
	FLEET_SOAK=1 $(PYTEST) tests/unit -n 6 --dist worksteal
	$(SUDO) env PATH="$(CURDIR)/$(BIN):$$PATH" FLEET_SOAK=1 FLEET_SOAK_RESULTS="$(CURDIR)/build/soak.jsonl" \
	  $(PYTEST) -m soak tests/lab; code=$$?; $(BIN)/python -m tests.lab.soak build/soak.jsonl docs/soak.md; exit $$code

bench: setup-test ## Measure against the peers (docs/benchmarks.md)
	$(SUDO) env PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python bench/converge.py
	$(SUDO) env PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python bench/fanout.py
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/balancer.py
	$(SUDO) env PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python bench/upgrade.py

clean: ## Remove what this Makefile made
	rm -rf .venv .venvs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

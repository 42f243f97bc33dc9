# Everything runs in a virtual environment of its own; a machine with Python (3.11 or newer), make and git is enough.
# `make` alone lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first interpreter that really is 3.11 or newer; override with `make PYTHON=/path/to/python …`.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3.14 python3 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$python"; exit; }; done)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILE := $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock'
# Many tests wait for processes and servers of their own, so four keep two cores busy.
TEST_PROCESSES ?= 4
CACHES := .bench .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build

.PHONY: help venv demo test check format bench lock wheel clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{ printf "  make %-8s %s\n", $$1, $$2 }'

venv: $(STAMP) ## Make the virtual environment from requirements.lock (every file checked by its hash)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer was found" >&2; \
		echo "hint: install one, or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module" >&2; \
		echo "hint: install it (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP) ## The story in one minute: four agents, one vault, an audit trail
	@$(BIN)/python -m broker_worker.cli demo

# The processes of pytest, and the hundreds that tests start, load what one of them compiled.
test: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP) ## Every test
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist worksteal

check: $(STAMP) ## Lint, format, types, and the layers of the architecture
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

bench: $(STAMP) ## Measure the broker beside a null broker, and beside slow vaults; writes .bench/results.json
	$(BIN)/python tests/benchmarks/bench.py
	$(BIN)/python tests/benchmarks/vault_bench.py

lock: $(STAMP) ## Resolve the dependencies again, for development and for the images
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --extra all --extra keyring --group dev -o requirements.lock pyproject.toml # not tpm: that one is compiled
	$(COMPILE) -c requirements.lock --extra broker --extra dashboard --extra onepassword --extra aws --extra vault -o deploy/locks/broker.lock pyproject.toml
	$(COMPILE) -c requirements.lock -o deploy/locks/agent.lock pyproject.toml
	$(COMPILE) -c requirements.lock --group build -o deploy/locks/build.lock

wheel: $(STAMP) ## Build the wheel into dist/
	$(BIN)/python -m hatchling build -t wheel

clean: ## Remove the environment, caches and results
	rm -rf $(VENV) $(CACHES)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Starts from a bare python3 (3.11 or newer). `make help` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench-installed
PYTHON_VERSIONS := python3 python3.14 python3.13 python3.12 python3.11
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
ARGS ?=
# Of the ledger runs of `make soak`: how many, how long each, and the first seed, a new one every time.
SEEDS ?= 20
ORDERS ?= 1000000
SEED ?= $(shell date +%s)
# Most tests wait for servers: on 2 cores three processes take 7 minutes, two take 9.5.
TEST_PROCESSES ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup run test lint format bench soak redis-py-suite lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv from the lock file
	@:

# The first interpreter that runs and is new enough; `python3` may be older than a python3.12 beside it.
# An environment that is there is brought up to date in place, so that what runs from it goes on.
$(STAMP): requirements.lock pyproject.toml
	@set -e; python=; if $(BIN)/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	for candidate in $(PYTHON_VERSIONS); do \
	  if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: Tradewind needs Python 3.11 or newer; found $$(python3 --version 2>&1 || echo no python3). Install it and run make again." >&2; exit 1; \
	fi; \
	echo "setup: $$($$python --version) -> $(VENV)"; \
	$$python -m venv --clear $(VENV) || { echo "make: $$python cannot create a virtual environment; install its venv package (Debian: apt install python3-venv)." >&2; exit 1; }
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## start everything on this machine: tradewind up (ARGS="--seconds 30")
	@$(BIN)/tradewind up $(ARGS)

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## rewrite the files as ruff wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: lint ## lint, then every test (ARGS="-k lane")
	@$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile $(ARGS)

bench: setup $(BENCH_STAMP) ## measure, side by side with redis-py and valkey-glide (ARGS=...)
	@$(BIN)/python -m benchmarks $(ARGS)

# A platform for which one of them has no wheel still measures the others.
$(BENCH_STAMP): requirements-bench.lock $(STAMP)
	@if $(PIP) install --require-hashes --requirement requirements-bench.lock; then touch $@; \
	else echo "bench: the clients of requirements-bench.lock cannot be installed here; measuring without them" >&2; fi

soak: setup ## the long tests, the ledger runs (SEEDS=20 ORDERS=1000000 SEED=...), the whole system for ten minutes
	@$(BIN)/pytest -m soak
	@TRADEWIND_TEST_LOOP=uvloop $(BIN)/pytest tests/client tests/faults
	@$(BIN)/python -m tests.ledger --seed $(SEED) --seeds $(SEEDS) --orders $(ORDERS)
	@$(BIN)/tradewind up --seconds 600 --crash-at 60 --kill-primary-at 120 $(ARGS)

redis-py-suite: setup ## redis-py's own tests, with redis-py and with Tradewind (ARGS="--select pipeline")
	@$(BIN)/python -m tools.redis_py_suite $(ARGS)

lock: setup ## resolve the dependencies anew: uv.lock and what is exported from it
	@$(PIP) install 'uv>=0.9'
	@$(BIN)/uv --quiet lock --upgrade --default-index https://pypi.org/simple
	@$(BIN)/uv --quiet export --frozen --all-extras --no-emit-project --no-annotate --output-file requirements.lock >/dev/null
	@$(BIN)/uv --quiet export --frozen --only-group bench --no-annotate --output-file requirements-bench.lock >/dev/null

clean: ## remove .venv and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

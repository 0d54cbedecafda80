# One verb a line; `make help` lists them. PYTHON is the environment to work in.
PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))
RUFF := $(BIN)ruff

.PHONY: help install check format lint types imports test slow fmt demo bench docs-numbers clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: ## make .venv and install for development
	python3 -m venv .venv && .venv/bin/python -m pip install -c constraints.txt -e '.[test]'

check: format lint types imports test ## everything a change must pass

format: ## is the code formatted?
	$(RUFF) format --check .

lint: ## ruff's rules
	$(RUFF) check .

types: ## mypy, strict
	$(BIN)mypy

imports: ## the layers of ARCHITECTURE.md
	$(BIN)lint-imports

test: ## the tests, warnings as errors
	$(PYTHON) -m pytest -q

slow: ## the tests that train for long
	$(PYTHON) -m pytest -q -m slow

fmt: ## format, and repair what can be repaired
	$(RUFF) format . && $(RUFF) check --fix .

demo: ## the main job, in a minute
	$(BIN)metagym demo

bench: ## measure stepping speed (beside EnvPool, with the bench extra)
	$(PYTHON) -m benchmarks.stepping

docs-numbers: ## write the stored results into the tables of the docs
	$(PYTHON) -m benchmarks.write_docs

clean: ## remove what the tools leave behind
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +

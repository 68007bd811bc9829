# make run, make test: each does its own set-up in .venv, and needs Python >= 3.11 and the package index.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test check clean

help: ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile

.venv/ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "slimq needs Python >= 3.11: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch .venv/ready

run: .venv/ready ## start a node for use, on 127.0.0.1:3001, data in .slimq/
	$(BIN)/slimq serve

check: .venv/ready ## lint, formatting, types and import rules
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## check, then all tests
	$(BIN)/python -m pytest

clean: ## remove the virtualenv and caches (never data)
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis

# make run, make test: each does its own set-up in .venv, and needs Python >= 3.11 and the package index.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run dev demo cluster bench bench-peers bench-check test check prove prove-release sim postgres rigs lock clean

help: ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile

.venv/ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "slimq needs Python >= 3.11: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch .venv/ready

run: .venv/ready ## start a node for use, on 127.0.0.1:3001, data in .slimq/
	$(BIN)/slimq serve

FOLDER ?= examples/functions
dev: .venv/ready ## run the functions of FOLDER (examples/functions), and deploy what changes
	$(BIN)/slimq dev $(FOLDER)

demo: .venv/ready ## the main job on real input: hash 20,000 files of this machine, and check
	$(BIN)/python examples/demo.py

cluster: postgres ## three nodes on one PostgreSQL, under load, until Ctrl-C
	$(BIN)/python examples/cluster.py

bench: .venv/ready ## measure every promise of speed beside the physical limit, write docs/benchmarks.md
	$(BIN)/python bench/run.py

PEERS ?=
WORKLOADS ?=
ROUNDS ?= 5
bench-peers: .venv/ready ## measure slimq beside other queues: make bench-peers PEERS="huey rq" WORKLOADS="W1 W3"
	$(BIN)/python bench/run_peers.py --peers '$(PEERS)' --workloads '$(WORKLOADS)' --rounds $(ROUNDS)

BASELINE ?=
bench-check: .venv/ready ## fail where a workload lost 15 % since bench/baseline.json; BASELINE=write writes it
	$(BIN)/python bench/check.py $(if $(filter write,$(BASELINE)),--write)

check: .venv/ready ## lint, formatting, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

postgres: .venv/ready ## find a PostgreSQL server for tests and the cluster, else install one
	$(BIN)/python examples/install_postgres.py

rigs: .venv/ready ## find what the rigs of the proofs are made of, else install it
	$(BIN)/python examples/install_rigs.py

# Two files of tests at a time: most wait for disks, clocks and processes rather than compute. In
# their order: else the long proofs, which have a file each, would come last.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Without a server or a rig the tests that need it are skipped; where CI is set, they fail.
test: check ## check, then all tests, with a PostgreSQL and all rigs if there can be
	-@$(MAKE) --no-print-directory -s -k postgres rigs
	$(PYTEST)

prove: .venv/ready ## the proofs alone, in their small size, and the planted bugs; test has them, too
	-@$(MAKE) --no-print-directory -s -k postgres rigs
	$(PYTEST) -m proof -rs

prove-release: .venv/ready ## the proofs in the size of a release, hours; go on by starting it again
	-@$(MAKE) --no-print-directory -s -k postgres rigs
	$(BIN)/python reliability/run.py $(PROOF)

SEED ?= 1
HOURS ?= 1
sim: .venv/ready ## one simulation: make sim SEED=4711 HOURS=24; the same seed gives the same trace
	$(BIN)/python tests/sim/run.py --seed $(SEED) --hours $(HOURS)

lock: ## resolve the dependencies of pyproject.toml anew into requirements.lock, with hashes
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install -q 'uv>=0.13,<0.14'
	.venv-lock/bin/uv pip compile pyproject.toml --extra dev --extra postgres --extra wasm --extra deno \
		--universal --python-version 3.11 \
		--generate-hashes --upgrade --custom-compile-command 'make lock' -q -o requirements.lock
	.venv-lock/bin/uv pip compile --group server --no-deps --universal --python-version 3.11 \
		--generate-hashes --upgrade --custom-compile-command 'make lock' -q -o requirements-server.lock

clean: ## remove the virtualenv and caches (never data)
	rm -rf .venv .venv-lock .bench .pytest_cache .ruff_cache .mypy_cache .hypothesis

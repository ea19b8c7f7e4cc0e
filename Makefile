# The commands of newcomers, developers and CI. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := cli workers load es domain adapters
SEEDS ?= 1-10
IDS ?= 100000000
SOAK_SEEDS ?= 1-100
SOAK_IDS ?= 1000000000
PYTHONS ?= 3.11 3.12 3.13 3.14 3.15
PLATFORMS ?= x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin
SOAK_TESTS ?= tests/faults tests/simulation tests/acceptance tests/domain tests/workers
# `make logs users`: the words after logs are roles, not targets.
ifeq (logs,$(firstword $(MAKECMDGOALS)))
ROLES := $(wordlist 2,9,$(MAKECMDGOALS))
$(eval $(ROLES):;@:)
endif

.PHONY: help install up down logs demo test kurrent resolve soak check format docs load bench simulate clean
.DEFAULT_GOAL := help

help: ## List the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Depends on these two files alone: after the first run everything works offline until they change.
install: .venv/.installed ## Make .venv and install
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'es needs Python 3.11 or newer; set PYTHON=…'; exit 1; }
	@echo 'installing into .venv …'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --only-binary grpcio,grpcio-tools,protobuf --editable '.[dev,eventstoredb]' || { \
		echo 'no EventStoreDB client for this Python (see above): installing without the extra eventstoredb …'; \
		$(PIP) --editable '.[dev]'; }
	@# Without a wheel (Linux on ARM) it needs a C compiler.
	@$(PIP) --editable '.[load]' || echo 'no histogram library (see above): `es load` will say so …'
	@$(BIN)/python -m compileall -q $(PACKAGES)
	@touch $@

up: install ## Install if needed and start the workers
	@$(BIN)/es up
	@echo
	@echo 'Next:'
	@echo '  . .venv/bin/activate'
	@echo '  es users create --email ada@example.com --name "Ada Lovelace"'
	@echo '  es --help'

down: install ## Stop the workers
	@$(BIN)/es down

logs: install ## Print the workers' logs: make logs, make logs users
	@$(BIN)/es logs $(firstword $(ROLES))

demo: install ## Show the main commands in a throw-away home
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/demo.sh

# Three processes, also on two cores: the tests of faults mostly wait.
test: install ## Run every test that can run on this machine
	@$(BIN)/python -m pytest -n 3 --dist worksteal

# kurrentdbclient and esdbclient need different versions of gRPC: one environment cannot hold both.
kurrent: .venv-kurrent/.installed ## Run the tests of the event store over the other client library
	@.venv-kurrent/bin/python -m pytest -n 2 tests/adapters/eventstoredb tests/support/node tests/contract

.venv-kurrent/.installed: BIN := .venv-kurrent/bin
.venv-kurrent/.installed: pyproject.toml constraints.txt
	@echo 'installing into .venv-kurrent …'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv-kurrent
	@# What the extra installs on Python 3.14 and newer, on every Python.
	@sed "/python_version < '3.14'/d; s/;.*//" constraints.txt > .venv-kurrent/constraints.txt
	@$(PIP:constraints.txt=.venv-kurrent/constraints.txt) --editable '.[dev]' kurrentdbclient
	@touch $@

resolve: ## Find wheels of everything for each supported Python and platform; needs a registry
	@test -x .venv-uv/bin/uv || { $(PYTHON) -m venv .venv-uv && .venv-uv/bin/python -m pip install --quiet --constraint constraints.txt uv; }
	@for pins in '--constraint constraints.txt' ''; do for python in $(PYTHONS); do for platform in $(PLATFORMS); do \
		echo "Python $$python, $$platform$${pins:+, as in constraints.txt}"; \
		.venv-uv/bin/uv pip compile --quiet --no-header --only-binary :all: $$pins --extra dev --extra eventstoredb \
			--python-version $$python --python-platform $$platform pyproject.toml > .venv-uv/resolved.txt || exit 1; \
	done; done; done

soak: install ## Run the long campaigns, an hour or more: make soak SOAK_SEEDS=1-20
	@echo '1 of 2: $(SOAK_TESTS) with ES_TEST_EFFORT=long'
	ES_TEST_EFFORT=long $(BIN)/python -m pytest -n 3 --dist worksteal -o faulthandler_timeout=7200 --profile all $(SOAK_TESTS)
	@echo '2 of 2: simulated histories, seeds $(SOAK_SEEDS), $(SOAK_IDS) ids'
	$(BIN)/python -m tests.simulation --seeds $(SOAK_SEEDS) --ids $(SOAK_IDS)

check: install ## Check format, lint, types, imports, architecture, documents, prose; edits nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.generate --check
	$(BIN)/python -m pytest --quiet tests/test_architecture.py tests/test_documents.py tests/test_prose.py

format: install ## Format, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install ## Write docs/cli.md and the role services of the compose files
	$(BIN)/python -m scripts.generate

load: install ## Load the running workers: make load ARGS=scripts/scenarios/smoke.toml, or ARGS='-p 8 -n 1000'
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/load.sh $(ARGS)

# QUICK=1 takes less than five minutes. ARGS go to the benchmark: make bench ARGS='--only hot --write-docs'
bench: install .venv-bench/.installed ## Measure everything, beside limits and other libraries: QUICK=1 make bench
	@$(BIN)/python -m scripts.bench $(ARGS)

# Other libraries, for comparison, in an environment of their own. Without a registry their lines are missing.
.venv-bench/.installed: BIN := .venv-bench/bin
.venv-bench/.installed: pyproject.toml constraints.txt
	@echo 'installing into .venv-bench …'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv-bench
	@$(PIP) --editable '.[bench]' || { \
		echo 'the other libraries cannot be installed (see above): their lines will say so …'; \
		$(PIP) --editable .; }
	@touch $@

simulate: install ## Look for duplicate ids under faults: make simulate SEEDS=1-50
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --ids $(IDS)

clean: ## Remove what was installed and generated, not your data
	rm -rf .venv .venv-bench .venv-kurrent .venv-uv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

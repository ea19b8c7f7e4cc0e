# The commands of newcomers, developers and CI. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := cli workers domain adapters
SEEDS ?= 1-10
IDS ?= 100000000
SOAK_SEEDS ?= 1-100
SOAK_IDS ?= 1000000000
SOAK_TESTS ?= tests/faults tests/simulation tests/acceptance tests/domain tests/workers/ids
# `make logs users`: the words after logs are roles, not targets.
ifeq (logs,$(firstword $(MAKECMDGOALS)))
ROLES := $(wordlist 2,9,$(MAKECMDGOALS))
$(eval $(ROLES):;@:)
endif

.PHONY: help install up down logs demo test soak check format docs load bench simulate clean
.DEFAULT_GOAL := help

help: ## List the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

# Depends on these two files alone: after the first run everything works offline until they change.
install: .venv/.installed ## Make .venv and install
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'es needs Python 3.11 or newer; set PYTHON=…'; exit 1; }
	@echo 'installing into .venv …'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
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

soak: install ## Run the long campaigns, an hour or more: make soak SOAK_SEEDS=1-20
	@echo '1 of 2: $(SOAK_TESTS) with ES_TEST_EFFORT=long'
	ES_TEST_EFFORT=long $(BIN)/python -m pytest $(SOAK_TESTS)
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

load: install ## Load the running workers: make load ARGS='-p 8 -n 1000'
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/load.sh $(ARGS)

bench: install ## Measure ids; see docs/performance.md
	@$(BIN)/python scripts/bench_ids.py

simulate: install ## Look for duplicate ids under faults: make simulate SEEDS=1-50
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --ids $(IDS)

clean: ## Remove what was installed and generated, not your data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

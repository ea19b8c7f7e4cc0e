# Everything a newcomer, a developer and CI type. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := cli workers domain adapters
SEEDS ?= 1-10
IDS ?= 100000000
# `make logs users`: words after logs are roles, not targets.
ifeq (logs,$(firstword $(MAKECMDGOALS)))
ROLES := $(wordlist 2,9,$(MAKECMDGOALS))
$(eval $(ROLES):;@:)
endif

.PHONY: help install up down logs demo test check format docs load bench simulate clean
.DEFAULT_GOAL := help

help: ## List the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

# Made once and again only when the dependencies change, so that everything works offline afterwards.
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

demo: install ## Show the main job in a throw-away home
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/demo.sh

# Three at a time, also on two cores: the tests of faults mostly wait.
test: install ## Run every test that can run here
	@$(BIN)/python -m pytest -n 3 --dist worksteal

check: install ## Format, lint, types, imports, generated docs; edits nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_architecture.py
	$(BIN)/python scripts/cli_reference.py --check

format: install ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install ## Write the generated docs
	$(BIN)/python scripts/cli_reference.py

load: install ## A load run against the workers that are up: make load ARGS='-p 8 -n 1000'
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/load.sh $(ARGS)

bench: install ## Measure; see docs/performance.md
	@$(BIN)/python scripts/bench_ids.py

simulate: install ## Look for duplicate ids under faults: make simulate SEEDS=1-50
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --ids $(IDS)

clean: ## Remove what was installed and generated, not your data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

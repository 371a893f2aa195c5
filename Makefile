# `make` shows what there is. Variables: WORLD, PRESET, SEED, ARGS (any flag of the command), NAME, FULL, PYTHON.
PYTHON ?= python3
WORLD  ?= brax/inverted_pendulum
PRESET ?= mbpo
SEED   ?= 0
ARGS   ?=
JOBS   ?= 2

BIN   := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup train lab test test-slow check format experiment lecture bench bench-full clean

help:  ## show this list
	@echo "usage: make TARGET [WORLD=$(WORLD)] [PRESET=$(PRESET)] [SEED=$(SEED)] [ARGS='--env-steps 2000 ...']"
	@echo
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' $(MAKEFILE_LIST) | while IFS=: read -r name about; do \
		printf '  %-10s %s\n' "$$name" "$$about"; done

setup: $(READY)  ## make .venv with everything needed (again only when the requirements change)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "branchax needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 2; }
	@echo "installing into .venv (a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

train: $(READY)  ## train PRESET on WORLD into a new directory under runs/
	$(BIN)/branchax train $(PRESET) --world $(WORLD) --seed $(SEED) $(ARGS)

lab: $(READY)  ## measure gradient estimators on WORLD (classic/pendulum unless it is set)
	$(BIN)/branchax lab gradients --world $(if $(filter file,$(origin WORLD)),classic/pendulum,$(WORLD)) $(ARGS)

test: $(READY)  ## the fast tests
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-slow: $(READY)  ## the slow tests: whole runs that have to learn
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(READY)  ## formatting, lint, types and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(MAKE) test

experiment: $(READY)  ## run experiments/NAME.py, as in make experiment NAME=inverted_pendulum
	$(BIN)/python -m experiments.$(NAME) $(ARGS)

lecture: $(READY)  ## check the lecture's claims and build a page of them; FULL=1 as published, lecture-NAME for one
	$(BIN)/python -m experiments.lecture $(if $(FULL),--full)

lecture-%: $(READY)
	$(BIN)/python -m experiments.lecture.$* $(if $(FULL),--full) $(ARGS)

bench: $(READY)  ## measure throughput, the quick sizes of all or of NAME, as in make bench NAME=imagine
	$(BIN)/python -m benchmarks $(NAME) $(ARGS)

bench-full: $(READY)  ## the same with all sizes
	$(BIN)/python -m benchmarks --full $(NAME) $(ARGS)

format: $(READY)  ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and every cache (runs/ and results/ stay)
	rm -rf .venv .cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make` shows what there is. Variables: WORLD, PRESET, SEED, SEEDS, STEPS, RUN (a run's directory), ARGS (any flag of the
# command), NAME, TASK, FULL, PYTHON.
PYTHON ?= python3
WORLD  ?= brax/inverted_pendulum
PRESET ?= mbpo
SEED   ?= 0
SEEDS  ?=
STEPS  ?=
RUN    ?=
ARGS   ?=
JOBS   ?= 2

# A misspelt one would be no error to make: `make train STEP=100` would train for as long as the preset says.
KNOWN   := PYTHON WORLD PRESET SEED SEEDS STEPS RUN ARGS JOBS NAME TASK FULL
UNKNOWN := $(filter-out $(KNOWN) SHELL,$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
nearest  = $(shell $(PYTHON) -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1))' $(1) $(KNOWN))
mean     = $(if $(1),; did you mean $(1)?)
$(foreach name,$(UNKNOWN),$(error $(name) is unknown$(call mean,$(call nearest,$(name))); allowed: $(KNOWN)))

BIN   := .venv/bin
READY := .venv/.ready
FLAGS  = $(if $(SEEDS),--seeds $(SEEDS)) $(if $(STEPS),--env-steps $(STEPS)) $(if $(RUN),--run $(RUN))
needs-run = $(if $(RUN),,$(error name a run's directory, as in make $@ RUN=runs/...))

.DEFAULT_GOAL := help
.PHONY: help setup train resume eval plot report render export sweep doctor faults mutants lab docs notebooks test unit test-slow \
	check dist-check format experiment lecture published published-check gpu gpu-list bench bench-full bench-peers clean

help:  ## show this list
	@echo "usage: make TARGET [WORLD=$(WORLD)] [PRESET=$(PRESET)] [SEED=$(SEED)] [ARGS='--env-steps 2000 ...']"
	@echo
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' $(MAKEFILE_LIST) | while IFS=: read -r name about; do \
		printf '  %-15s %s\n' "$$name" "$$about"; done

setup: $(READY)  ## make .venv with everything needed (again only when the requirements change)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "branchax needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 2; }
	@echo "installing into .venv (a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

train: $(READY)  ## train PRESET on WORLD into RUN, or a new directory under runs/
	$(BIN)/branchax train $(PRESET) --world $(WORLD) --seed $(SEED) $(FLAGS) $(ARGS)

resume: $(READY)  ## go on with the run in RUN, as in make resume RUN=runs/mine
	$(needs-run)$(BIN)/branchax resume $(RUN) $(ARGS)

doctor: $(READY)  ## check this machine and, if it is set, the run in RUN
	$(BIN)/branchax doctor $(RUN) $(ARGS)

eval: $(READY)  ## more episodes with the policy that RUN has saved
	$(needs-run)$(BIN)/branchax evaluate $(RUN) $(ARGS)

export: $(READY)  ## write the policy of RUN into RUN/policy, for jax.export and for NumPy alone
	$(needs-run)$(BIN)/branchax export $(RUN) $(ARGS)

sweep: $(READY)  ## train PRESET on WORLD over a grid: ARGS='--grid agent.learning_rate=1e-3,3e-4'
	$(BIN)/branchax sweep $(PRESET) --world $(WORLD) --seed $(SEED) $(FLAGS) $(ARGS)

plot: $(READY)  ## curves and diagnostics of RUN='runs/A runs/B' as PNG files
	$(needs-run)$(BIN)/branchax plot $(RUN) $(ARGS)

report: $(READY)  ## one page about RUN='runs/A runs/B' that opens offline
	$(needs-run)$(BIN)/branchax report $(RUN) $(ARGS)

render: $(READY)  ## film the policy of RUN=runs/A
	$(needs-run)$(BIN)/branchax render $(RUN) $(ARGS)

lab: $(READY)  ## measure gradient estimators on WORLD (classic/pendulum unless it is set)
	$(BIN)/branchax lab gradients --world $(if $(filter file,$(origin WORLD)),classic/pendulum,$(WORLD)) $(ARGS)

test: $(READY)  ## formatting, lint, types and the fast tests: what a change has to pass
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(MAKE) unit

check: test  ## the same as make test

unit: $(READY)  ## the fast tests alone, as in make unit ARGS='-k replay'
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(READY)  ## the slow tests: whole runs that have to learn
	$(BIN)/python -m pytest -m slow -n $(JOBS) --dist worksteal $(ARGS)

dist-check: $(READY)  ## build wheel and sdist, and try the wheel in a clean environment of PYTHON
	$(BIN)/python .ci/dist_check.py --python $(PYTHON)

experiment: $(READY)  ## run experiments/NAME.py, as in make experiment NAME=inverted_pendulum
	$(BIN)/python -m experiments.$(NAME) $(ARGS)

# PRESET is passed on only where it was given: without it, and without TASK, the whole plan is meant.
BESIDE = $(if $(TASK),--task $(TASK)) $(if $(filter file,$(origin PRESET)),,--preset $(PRESET)) $(if $(STEPS),--steps $(STEPS)) $(ARGS)

published: $(READY)  ## our curves beside published ones: what is done and missing, and the next of it; or TASK=Hopper PRESET=mbpo
	$(BIN)/python -m experiments.published $(BESIDE) $(if $(SEEDS),--seeds $(SEEDS)) --jobs $(JOBS)

published-check: $(READY)  ## a short fresh run against the committed curve, of TASK and PRESET or of the cheap ones
	$(BIN)/python -m experiments.published --check $(BESIDE)

gpu: $(READY)  ## the next that waits for an accelerator, nine minutes of it; ARGS=--here on a CPU
	$(BIN)/python -m experiments.gpu_queue $(ARGS)

gpu-list: $(READY)  ## what waits for an accelerator: done, partial, missing
	$(BIN)/python -m experiments.gpu_queue --list $(ARGS)

lecture: $(READY)  ## check the lecture's claims and build a page of them; FULL=1 as published, lecture-NAME for one
	$(BIN)/python -m experiments.lecture $(if $(FULL),--full)

lecture-%: $(READY)
	$(BIN)/python -m experiments.lecture.$* $(if $(FULL),--full) $(ARGS)

bench: $(READY)  ## measure throughput, the quick sizes of all or of NAME, as in make bench NAME=imagine
	$(BIN)/python -m benchmarks $(NAME) $(ARGS)

bench-full: $(READY)  ## the same with all sizes
	$(BIN)/python -m benchmarks --full $(NAME) $(ARGS)

bench-peers: $(READY) .venv-peers-mbrl/.ready .venv-peers-sbx/.ready  ## time mbrl-lib, Stable-Baselines3, sbx and Brax's SAC beside branchax
	$(BIN)/python -m benchmarks.peers $(NAME) $(ARGS)

# Environments of their own: mbrl-lib pins packages that do not run on a current Python, so its pins are left out.
.venv-peers-%/.ready: benchmarks/peers/%.txt
	@echo "installing into .venv-peers-$* (a minute or two)"
	@$(PYTHON) -m venv .venv-peers-$*
	@.venv-peers-$*/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@$(if $(filter mbrl,$*),.venv-peers-mbrl/bin/pip install --quiet --disable-pip-version-check --no-deps mbrl==0.2.0)
	@touch $@

docs: $(READY)  ## build the documentation into build/docs/site; it opens from the disk
	@$(BIN)/python -c 'import math_core, mkdocstrings_handlers.python, zensical' 2>/dev/null \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python .ci/build_docs.py build/docs
	@echo "open build/docs/site/index.html"

notebooks: $(READY)  ## run examples/notebooks from top to bottom and store their outputs (a few minutes)
	@$(BIN)/python -c 'import nbclient, ipykernel, pandas' 2>/dev/null \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[notebooks]'
	$(BIN)/python examples/notebooks/execute.py $(ARGS)

faults: $(READY)  ## what a run survives, many times over (an hour): results/faults.json
	$(BIN)/python -m benchmarks.faults $(ARGS)

mutants: $(READY)  ## whether the tests see single-line faults (half an hour): results/mutants.json
	$(BIN)/python -m benchmarks.mutants $(ARGS)

format: $(READY)  ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environments and what was cached here (runs/ and results/ stay)
	rm -rf .venv .venv-peers-* .cache .hypothesis .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

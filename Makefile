# attnvis: `make` alone lists what there is.  Needs git, make and Python 3.11 or newer; everything else goes into .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-slow test-outside lint lock clean

BIN := .venv/bin
INSTALLED := .venv/.installed
PYTHON ?= python3.11 python3
WORKERS ?= 2

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make .venv and install attnvis with its tools; again when the dependencies change

demo: $(INSTALLED) ## draw heatmaps on the sample photos and say where the page is
	$(BIN)/attnvis run

# One thread a worker: two workers with two threads each are slower than either on two cores.
test: $(INSTALLED) ## run the tests, but for those that take minutes, a browser, a Slurm or a Ray
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not browser and not slurm and not ray" $(ARGS)

test-slow: $(INSTALLED) ## run the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS) || [ $$? -eq 5 ]  # 5: there is none

# One worker: the tests of Slurm share one Slurm.
test-outside: $(INSTALLED) ## run the tests that need a browser or a Slurm; they skip where there is none
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "browser or slurm" $(ARGS)

lint: $(INSTALLED) ## check style, types and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Asks for pip-tools itself, not for `setup`: a lock that no longer fits pyproject.toml would stand in its own way.
lock: | $(BIN)/python ## resolve pyproject.toml into constraints.txt, keeping the pins that still fit (ARGS=--upgrade: none)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip-tools>=7.4'
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/python -m piptools compile --quiet --all-extras --strip-extras \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options $(ARGS) \
	    --output-file constraints.txt pyproject.toml

clean: ## remove caches and builds; .venv and outputs/ stay
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(wildcard attnvis scripts tests) -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that somebody else made serves as well; one whose Python is gone is made anew.
$(BIN)/python:
	@for python in $(PYTHON); do \
	    if "$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making .venv with $$("$$python" --version)"; exec "$$python" -m venv --clear .venv; \
	    fi; \
	done; \
	echo "attnvis needs Python 3.11 or newer, and found none as: $(PYTHON); name one with make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing attnvis and its tools into .venv; the first time takes minutes and about 6 GB, most of it torch"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

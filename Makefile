# Two commands do everything on a fresh machine with Python 3.10+ and make:
#   make demo    train a small GPT four ways and write the report
#   make test    format, lint, types, tests, and every figure of the paper at its smallest
# OPTIONS passes options to the demo:  make demo OPTIONS="--steps 2000 --out runs/long"

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-all format lint types tests tiny bench wheel clean

demo: .venv/.installed
	$(BIN)/rotational demo $(OPTIONS)

test: lint types tests tiny

test-all: lint types
	$(BIN)/python -m pytest -m "" --numprocesses auto --maxprocesses 8

format: .venv/.developed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: .venv/.developed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.developed
	$(BIN)/pyright --pythonpath $(BIN)/python

tests: .venv/.developed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

tiny: .venv/.developed
	rm -rf build/tiny
	$(BIN)/rotational reproduce all --scale tiny --out build/tiny

bench: .venv/.developed
	$(BIN)/python benchmarks/step.py --json benchmarks/results/step-1.json
	$(BIN)/python benchmarks/step.py --json benchmarks/results/step.json
	$(BIN)/python benchmarks/footprint.py --json benchmarks/results/footprint.json
	$(BIN)/python benchmarks/monitor.py --json benchmarks/results/monitor.json
	$(BIN)/python benchmarks/table.py

wheel: .venv/.developed
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf .venv dist build .pytest_cache .ruff_cache

# The versions that are known to work stand in constraints.txt.
.venv/.installed: pyproject.toml constraints.txt hatch_build.py $(wildcard src/rotational/kernels/c/*)
	@$(PYTHON) -c 'import sys; sys.exit("rotational needs Python 3.10 or newer: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (once; minutes, for torch is large) ..."
	@$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/.developed: .venv/.installed
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

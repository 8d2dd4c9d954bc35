# Two commands set everything up on a Linux machine with Python 3.11 or later: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
TWO := -n 2 --dist loadfile --no-loadscope-reorder  # two processes, each a file at a time, in the order of tests/conftest.py

export PYTHONDONTWRITEBYTECODE :=  # an empty value is as none: else every process of the tests compiles the package anew

.PHONY: demo test test-slow fuzz mutants notebooks test-notebooks lint types docs check clean

demo: .venv/installed  ## pre-train, fine-tune and test on phantoms, minutes on a CPU; open demo/index.html
	$(BIN)/mrm demo --out demo

test: .venv/tested  ## the test suite, six to eight minutes on two quiet cores
	$(BIN)/python -m pytest -q $(TWO)

test-slow: .venv/tested  ## also the tests that are marked slow
	$(BIN)/python -m pytest -q $(TWO) --runslow

fuzz: .venv/tested  ## 6,000 damaged files through all readers, about ten minutes; prints what went wrong
	$(BIN)/python -m tests.support.fuzzing 6000

mutants: .venv/tested  ## small changes to the code, one at a time, and whether a test notices; hours, goes on where it was stopped
	$(BIN)/pip install --quiet -c constraints.txt -e '.[mutants]'
	$(BIN)/python -m tests.support.mutants --changes 60

notebooks: .venv/tested  ## execute the notebooks of examples/ anew and keep what they print and draw
	$(BIN)/python -m tests.support.notebooks
	$(BIN)/ruff format -q examples/notebooks

test-notebooks: .venv/tested  ## execute the notebooks of examples/, three minutes
	$(BIN)/python -m pytest -q --runslow tests/examples/test_notebooks.py

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/tested
	$(BIN)/mypy

docs: .venv/tested  ## the pages of docs/, in docs/_build
	$(BIN)/sphinx-build -W -q docs docs/_build

check: lint types docs test-notebooks test  ## what CI runs

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

clean:  ## remove the environment and what the demo wrote
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache

# make demo: forget a handwritten digit, from pictures to registered model · make test: set up and run the tests · make test-slow: the long ones · make test-gpu: those that need a GPU · make soak: 20 runs with random kills · make check: lint, types, import rules, fast tests · make compare: methods side by side (COMPARISON=comparisons/….yaml) · make bench: an update beside the official way, a deployed run beside bare stages · make audit: known holes in the pinned packages · make up, down, status: servers and a worker for scheduled jobs · make clean: remove what these made
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Without a folder of wheels: which build of torch to take (cpu, auto, cu128, …).
TORCH_BACKEND ?= cpu
BACKEND = $(if $(UV_FIND_LINKS),,--torch-backend=$(TORCH_BACKEND))
BIN := .venv/bin

help: ; @head -1 Makefile

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(BACKEND) -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.installed
	@$(BIN)/python -m flows.erase

compare: .venv/.installed
	@$(BIN)/python -m flows.compare $(COMPARISON)

bench: .venv/.installed
	PYTHONPATH=. $(BIN)/python tests/benchmarks/updates.py
	PYTHONPATH=.:tests/pipeline $(BIN)/python tests/benchmarks/overhead.py

up down status: .venv/.installed
	@$(BIN)/python -m flows.servers $@

test: .venv/.installed
	$(BIN)/python -m pytest

test-slow: .venv/.installed
	$(BIN)/python -m pytest -m slow

test-gpu: .venv/.installed
	$(BIN)/python -m pytest -m gpu

soak: .venv/.installed
	$(BIN)/python -m pytest -m soak

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -m '(unit or property) and not slow'

# Not part of check: it asks PyPI's database of known holes, and fails where that does not answer.
audit: .venv/.installed
	$(BIN)/uv tool run pip-audit==2.10.1 -r constraints.txt --no-deps --disable-pip --strict

clean:
	-test ! -d .work/servers || $(BIN)/python -m flows.servers down
	rm -rf data/curated data/forget_set models/base models/classifier models/erased metrics plots reports runs dvc.lock \
	  mlflow.db mlartifacts .dvc/cache .dvc/tmp
	rm -rf .venv .work .pytest_cache .ruff_cache .mypy_cache .hypothesis erasediff_pipeline.egg-info

.PHONY: help demo compare bench up down status test test-slow test-gpu soak check audit clean

# Run `make` for the list of targets.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Without a folder of wheels: which build of torch to take (cpu, auto, cu128, …).
TORCH_BACKEND ?= cpu
BACKEND = $(if $(UV_FIND_LINKS),,--torch-backend=$(TORCH_BACKEND))
BIN := .venv/bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z -]*:.*## / {printf "%-18s%s\n", $$1, $$2}' Makefile

# What a visitor needs; and beside it the linters, the types and the tests.
.venv/.installed: EXTRA = pipeline
.venv/.dev: EXTRA = dev
.venv/.installed .venv/.dev: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python 3.11 to 3.13 is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(BACKEND) -c constraints.txt -e '.[$(EXTRA)]'
	touch .venv/.installed $@

demo: .venv/.installed ## forget a handwritten digit, from pictures to a registered model
	@$(BIN)/python -m flows.erase

demo-text: .venv/.installed ## forget a star, from words to a registered text-to-image model
	@$(BIN)/python -m flows.erase --preset shapes

examples: .venv/.installed ## small working models of other families, into .work/examples, minutes each
	@$(BIN)/python -m erasediff.examples.train_family

compare: .venv/.installed ## methods side by side, hours: COMPARISON=comparisons/methods.yaml
	@$(BIN)/python -m flows.compare $(COMPARISON)

up down: .venv/.installed ## servers and a worker for scheduled jobs
	@$(BIN)/python -m flows.servers $@

# Servers that do not run are an answer: make would call it an error. In scripts ask flows.servers, which exits with 1.
status: .venv/.installed ## how the servers are
	@$(BIN)/python -m flows.servers $@ || test $$? -eq 1

check: .venv/.dev ## lint, types, import rules, docs, fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python -m pytest -n 2 --dist loadfile -m '(unit or property) and not slow'

test: .venv/.dev ## the tests, spread over two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/.dev ## the long tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-gpu: .venv/.dev ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu

soak: .venv/.dev ## 20 runs with random kills, an hour or more
	$(BIN)/python -m pytest -m soak

bench: .venv/.dev ## an update and an evaluation beside the plain way; a deployed run beside bare stages
	PYTHONPATH=. $(BIN)/python tests/benchmarks/updates.py
	PYTHONPATH=.:tests/families $(BIN)/python tests/benchmarks/memory.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/evaluation.py
	PYTHONPATH=.:tests/pipeline $(BIN)/python tests/benchmarks/overhead.py

docs: .venv/.dev ## the pages of docs/ with the reference, as .work/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Not part of check: it asks PyPI's database of known holes, and fails where that does not answer.
audit: .venv/.installed ## known security holes in the pinned packages
	$(BIN)/uv tool run pip-audit==2.10.1 -r constraints.txt --no-deps --disable-pip --strict

clean: ## remove what the others made
	-test ! -d .work/servers || $(BIN)/python -m flows.servers down
	rm -rf data/curated data/forget_set models/base models/classifier models/erased metrics plots reports runs dvc.lock \
	  mlflow.db mlartifacts .dvc/cache .dvc/tmp
	rm -rf .venv .work .pytest_cache .ruff_cache .mypy_cache .hypothesis erasediff_pipeline.egg-info

.PHONY: help demo demo-text examples compare bench up down status test test-slow test-gpu soak check docs audit clean

# One door in: `make` alone prints the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KEEP ?=
WORKERS ?= 3
# PyTorch without CUDA, where its index can be reached: 200 MB instead of several GB.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
CPU_TORCH = $$(curl -sfI --max-time 5 $(TORCH_INDEX)/torch/ >/dev/null 2>&1 && echo --extra-index-url $(TORCH_INDEX))

.PHONY: help install demo test lint format bench soak conformance clean

help:  ## print the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## build .venv with everything (again only when the dependencies change)

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a minute or two the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv torch $(CPU_TORCH)
	@set -o pipefail; $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]' 2>&1 | grep -v '^ [-+~] '
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps tensorrt-stubs==10.13.0.35.1  # for the type checker; it depends on TensorRT itself
	@touch $@

demo: install  ## the main job, in front of you: MLflow, Airflow and Triton on this machine (KEEP=1 keeps the server up)
	@$(BIN)/airflow-triton demo $(if $(KEEP),--keep)

test: install  ## the whole test suite, three files at a time (WORKERS=1: one after the other)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

soak: install  ## kill deployments at every call, promote a thousand times under load, kill Airflow's processes (two hours); writes into docs/
	@AIRFLOW_TRITON_SOAK=1 $(BIN)/python -m pytest tests/test_crash.py tests/test_delete.py tests/test_soak.py tests/test_live_airflow.py \
	  -k "soak or (test_delete and killed)"

conformance: install  ## ONNX's own backend tests, and a model of every kind, on the real Triton (half an hour); writes into docs/
	@AIRFLOW_TRITON_CONFORMANCE=1 $(BIN)/python -m pytest -s tests/test_onnx_backend.py tests/test_conversion_table.py

lint: install  ## ruff, the type checker and the import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: install  ## measure what the docs claim, against peers, into docs/benchmarks.md (quiet machine, please)
	@{ printf '# Benchmarks\n\nMade by `make bench` on %s, %s cores. Medians; the ratio is what counts.\n\n' "$$(date +%F)" "$$(nproc)"; \
	   for each in benchmarks/[a-z]*.py; do AIRFLOW_HOME=$$(mktemp -d) $(BIN)/python $$each; done; } > docs/benchmarks.md
	@cat docs/benchmarks.md

format: install  ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove .venv and what tools left behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist

# Everything runs in .venv, made on first use from pyproject.toml and the versions in constraints.txt.
SHELL := /bin/bash
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q -c constraints.txt
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help venv demo results test test-avx2 lint test-mnist test-rtl bench gpu-check clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: .venv/.installed ## make .venv and install the project into it, for development

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	touch $@

demo: .venv/.installed ## compare the learning rules on small digits and write a report to runs/demo
	$(BIN)/lowbit-dtp compare --data digits --out runs/demo

results: .venv/.installed ## draw the pictures and write the tables of the docs, from the folder results
	$(BIN)/lowbit-dtp results draw

test: lint ## lint, then the whole test suite, by WORKERS side by side
	$(PYTEST)

test-avx2: .venv/.installed ## tests of kernels, formats and rules as on a processor with AVX2, if this one has more
	$(BIN)/python -m tests.avx2 $(PYTEST) -k 'not of_the_oracle and not test_estimates and not test_codings' tests/conformance tests/lowbit_dtp/test_{kernels,packed,recorded,training}.py

lint: .venv/.installed ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-mnist: .venv/.installed ## slower checks: a Dask cluster; accuracy on MNIST (in LOWBIT_DTP_DATA, the cache, or fetched)
	$(BIN)/python -m pytest -m "not gpu" tests/slow --ignore tests/slow/test_rtl.py

test-rtl: .venv/.installed ## 10,000 images of MNIST through the thesis network in Verilator, a few minutes; needs verilator, g++, make and MNIST
	$(BIN)/python -m pytest tests/slow/test_rtl.py

bench: .venv/.installed ## time kernels and training beside their peers, on AVX-512 also as AVX2, 10 minutes each; MNIST and onnxruntime if at hand
	-$(PIP) onnx onnxruntime
	$(BIN)/python tests/benchmarks/bench.py

gpu-check: .venv/.installed ## tests and benchmark of the GPU path; needs a CUDA device and a torch that is built for it
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python tests/benchmarks/gpu.py

clean: ## remove what tools left behind; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

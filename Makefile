# Everything runs in .venv, which the targets make themselves. PYTHON is the interpreter that .venv is made from.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT ?= out

export TF_CPP_MIN_LOG_LEVEL ?= 3
# mkdocs-material otherwise prints an advertisement at every build
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check coverage docs bench gpu-check train-cifar10 fuzz test-fields test-real kills sbom clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: .venv/ready  ## make .venv with everything that running, testing and checking need

demo: .venv/core  ## run the main job on the shipped network and scikit-image's photographs, offline
	$(BIN)/python -m jobs run demo --out $(OUT)

test: setup  ## run the tests, offline
	$(BIN)/python -m pytest -q -n 3 --dist worksteal -m "not slow" tests

check: setup  ## lint, format, types, the import directions and the documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py
	$(BIN)/mkdocs build --strict --quiet

coverage: setup  ## run the tests and measure which lines they reach; fails below what setup.cfg asks for
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -q -n 3 --dist worksteal -m "not slow" --cov --cov-report=term:skip-covered --cov-report=html tests

docs: setup  ## serve the documents on http://127.0.0.1:8000, rebuilt as they are edited
	$(BIN)/mkdocs serve

bench: setup  ## measure: scan, dreams and explanations beside their yardsticks, and what grows with the data
	$(BIN)/python -m bench.scan
	$(BIN)/python -m bench.tables
	$(BIN)/python -m bench.endtoend
	$(BIN)/python -m bench.precision
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.scaling
	$(BIN)/python -m bench.dream
	$(BIN)/python -m bench.deepdream
	$(BIN)/python -m bench.gradcam

gpu-check: setup  ## test and measure on a machine with a GPU, in ten minutes; writes gpu-check.json to send home
	@if command -v nvidia-smi >/dev/null; then $(INSTALL) --editable '.[dev,gpu]'; fi
	$(BIN)/python -m bench.gpu

train-cifar10: .venv/core  ## train the small CIFAR-10 network (CIFAR10_DIR: prepared TensorFlow Datasets)
	$(BIN)/python -m jobs train cifar10 $(if $(CIFAR10_DIR),--data-dir "$(CIFAR10_DIR)")

fuzz: setup  ## break inputs of every kind for FUZZ_SECONDS (600) and look at what convscope answers; FUZZ_SEED chooses others
	$(BIN)/python tests/fuzz --seconds $(or $(FUZZ_SECONDS),600) --seed $(or $(FUZZ_SEED),0) --workers 2 --keep build/fuzz

test-fields: setup  ## hold the receptive fields of all of keras.applications against the oracle (half an hour or more)
	$(BIN)/python tests/recfield/survey.py

test-real: setup  ## the tests on real networks and data, found through CONVSCOPE_REAL and CONVSCOPE_SHARED
	$(BIN)/python -m pytest -q -m "not slow" tests/real

kills: setup  ## kill commands at any moment, KILLS (1000) times over all stages, and compare what they then leave
	CONVSCOPE_KILLS=$(or $(KILLS),1000) $(BIN)/python -m pytest -q -s tests/pipeline/test_kills.py

sbom: setup build/sbom/ready  ## write build/sbom.json: every package in .venv, as CycloneDX
	build/sbom/bin/cyclonedx-py environment $(BIN)/python --output-reproducible --output-format JSON --output-file build/sbom.json

build/sbom/ready: constraints.txt
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt cyclonedx-bom
	@touch $@

clean:  ## remove .venv and what tests and builds left; results stay
	rm -rf .venv build site htmlcov .coverage .coverage.* convscope.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "convscope needs Python 3.11 to 3.13; name one: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade pip setuptools

.venv/core: .venv/bin/python setup.cfg pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

.venv/ready: .venv/core
	$(INSTALL) --editable '.[dev]'
	@touch $@

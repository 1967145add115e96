# `make run` aligns a model from a fresh clone; `make test` runs the tests. Both set up .venv at locked versions first.

PYTHON ?= python3.11
VLLM ?= cpu# or gpu: vLLM on CUDA
JOBS ?= 2# processes that run the tests
LOCK := requirements$(if $(filter gpu,$(VLLM)),-gpu).txt
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export DO_NOT_TRACK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup run test bench bench-gpu bench-annotation bench-data bench-generation bench-judging docs lint package viz jupyter clean

setup: $(INSTALLED)

# The locks are complete, so pip must not look for more (--no-deps); but torch comes first where any build of it will do,
# with what that build needs: for CUDA or for the CPU alone.
$(INSTALLED): $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(if $(filter gpu,$(VLLM)),,$(BIN)/pip install --quiet torch==2.13.0)
	$(BIN)/pip install --quiet --no-deps -r $(LOCK)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

run: setup
	$(BIN)/kedro run

# A thread each: more threads than cores make torch wait for itself. What the suite expects are the results of a CPU, so
# it sees no GPU; where there is one, the tests of tests/gpu follow, in one process.
test: setup
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile
	@if nvidia-smi --list-gpus >/dev/null 2>&1; then $(BIN)/python -m pytest -m gpu tests/gpu; fi

bench: setup
	CUDA_VISIBLE_DEVICES= $(BIN)/python benchmarks/engine.py

bench-gpu: setup
	$(BIN)/python benchmarks/engine_gpu.py

bench-annotation: setup
	$(BIN)/python benchmarks/annotation.py

bench-generation: setup
	$(BIN)/python benchmarks/generation.py

bench-judging: setup
	$(BIN)/python benchmarks/judging.py

bench-data: setup
	$(BIN)/python benchmarks/data.py

# The site, into site/: strictly, and without a network.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

package: setup
	$(BIN)/kedro package

viz: setup
	$(BIN)/kedro viz run

jupyter: setup
	$(BIN)/kedro jupyter lab

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

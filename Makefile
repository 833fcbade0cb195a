# Every target sets up what it needs. `make setup` alone makes .venv and installs satrap in it.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
STAMP := $(VENV)/.installed
# One more than cores: tests wait for processes and disks now and then. JOBS=0 runs them in one process, for a debugger.
JOBS ?= $(shell expr 1 + $$(nproc 2>/dev/null || echo 1))
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
NATIVE := $(shell find native CMakeLists.txt -name '*.cpp' -o -name '*.h' -o -name 'CMakeLists.txt')
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: setup demo test test-fast bench compare lint types contracts protos stubs sanitize clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## make .venv and install satrap with everything it needs

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@scripts/setup "$(PYTHON)" "$(VENV)"
	@touch $@

demo: setup  ## train, serve on two shards, train on while serving, compare the AUC; under two minutes
	@$(BIN)/satrap demo $(DEMO_FLAGS)

test: setup  ## the whole suite: fast tests, then slow ones
	$(PYTEST) -m "not slow"
	$(PYTEST) -m slow

test-fast: setup  ## without the tests that start processes
	$(PYTEST) -m "not slow"

bench: setup  ## the benchmarks, quickly; see docs/benchmarks.md for the full runs
	$(BIN)/python benchmarks/serve.py --quick
	$(BIN)/python benchmarks/table.py --quick
	$(BIN)/python benchmarks/updates.py --quick

compare: setup  ## the same calls to satrap and to the real TorchServe; needs Java 17
	$(BIN)/python scripts/compare_torchserve

lint: setup  ## layout and lint of Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files 'native/*.cpp' 'native/*.h' | xargs $(BIN)/clang-format --dry-run --Werror

types: setup  ## mypy, strict
	$(BIN)/mypy
	MYPYPATH=src:benchmarks $(BIN)/mypy benchmarks/serve.py benchmarks/table.py benchmarks/load.py benchmarks/updates.py benchmarks/harness
	MYPYPATH=src:benchmarks:tests/serving $(BIN)/mypy --exclude handlers scripts/compare_torchserve tests/serving/torchserve_calls

contracts: setup  ## who may import whom
	$(BIN)/lint-imports

protos: setup  ## generate the Python modules of protos/*.proto
	scripts/protos

stubs: setup  ## generate the type stubs of the native core
	scripts/stubs

sanitize: setup  ## native tests under ASan/UBSan and TSan
	scripts/sanitize

clean:  ## remove what the targets made
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# `make` alone lists the targets.  Everything lands in .venv/ and build/; nothing is
# installed on the machine except what scripts/apt-packages names.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
BUILD ?= build
BIN := $(abspath $(VENV))/bin
PY := $(BIN)/python
MESON := $(BIN)/meson
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
export PATH := $(BIN):$(PATH)

# A warning fails CI and `make lint`, never the build of a user with another compiler.
WERROR := $(if $(CI),--werror)
# How many compilers run at once.
JOBS ?= $(shell nproc)
# A part of what a target does:
#   make test-python PYTEST="-k ticket -x"     options of pytest
#   make asan TESTS="name fork"                C tests; the same for the other targets of C tests
#   make matrix VERSIONS=3.12 PYTEST=FILE      CPythons, tests
#   make test-numpy NUMPY=2.1.0                a NumPy; --quick: a part, two minutes
#   make models MODELS="name ticket"           models, or cases of them
#   make bench CASE=pipe, make bench BENCH=--quick
PYTEST ?=
TESTS ?=
VERSIONS ?=
NUMPY ?=
MODELS ?=
CASE ?=
BENCH ?=
INPUT ?=
# make fuzz SECONDS=600; SEED=n repeats a run
SECONDS ?= 60
SEED ?=

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# ---- the environment ---------------------------------------------------------------

# One stamp for each group of requirements in pyproject.toml.
$(VENV)/.build: pyproject.toml scripts/requirements
	scripts/apt-packages build
	test -x $(PY) || "$$(scripts/find-python)" -m venv $(VENV)
	$(PIP) --upgrade pip
	requirements=$$(scripts/requirements build-system build); $(PIP) $$requirements
	touch $@

# pip refuses to install nothing, which is what a group may ask for.
$(VENV)/.%: $(VENV)/.build
	requirements=$$(scripts/requirements $*); test -z "$$requirements" || $(PIP) $$requirements
	touch $@

# pip runs ninja in a directory that stays, so that only what changed is compiled.
.PHONY: package
package: $(VENV)/.build ## build the package and install it in .venv
	$(PIP) --no-build-isolation --no-deps --force-reinstall \
	    --config-settings=build-dir=$(BUILD)/python .

# ---- use ----------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.demo package ## filter a stack of real images in shared memory, a minute [INPUT=path]
	$(PY) -m sharena demo $(INPUT)

.PHONY: bench
bench: $(VENV)/.bench package ## measure against the peers, some minutes [CASE=name] [BENCH=--quick]
	scripts/apt-packages build bench
	$(PY) bench/run.py $(CASE) $(BENCH)

# ---- tests --------------------------------------------------------------------------

# $(call c_build,DIRECTORY,OPTIONS): a build of the C library and its tests.
define c_build
	test -f $(BUILD)/$(1)/build.ninja || $(MESON) setup $(BUILD)/$(1) $(2) $(WERROR) >/dev/null
	$(BIN)/ninja -C $(BUILD)/$(1) -j$(JOBS) --quiet
endef
# $(call c_test,DIRECTORY,OPTIONS): run them.
define c_test
	$(MESON) test -C $(BUILD)/$(1) --no-rebuild --print-errorlogs $(2) $(TESTS)
endef

.PHONY: test
test: test-c test-python ## all tests, five to eight minutes: the C library's, then the package's

.PHONY: test-c
test-c: $(VENV)/.build ## the C tests, with the invariants checked at each step [TESTS=name]
	$(call c_build,c,-Dchecks=true)
	$(call c_test,c)

.PHONY: test-python
test-python: $(VENV)/.test $(VENV)/.demo package ## the Python tests, with the package as users get it [PYTEST=options]
	$(PY) -m pytest $(PYTEST)

.PHONY: test-numpy
test-numpy: $(VENV)/.test package ## NumPy's own tests with its memory in the heap, oldest and newest NumPy, half an hour [NUMPY=--quick]
	$(PY) scripts/test-numpy $(NUMPY)

.PHONY: fuzz
fuzz: $(VENV)/.test package ## tests with new random seeds, a minute [SECONDS=n] [SEED=n]
	$(call c_build,c,-Dchecks=true)
	$(PY) scripts/fuzz --seconds $(SECONDS) $(addprefix --seed ,$(SEED))

# The steps of killstep are too many for these: they run the suite `core` only.
.PHONY: asan
asan: export TEST_SLOWNESS = 4
asan: export UBSAN_OPTIONS = halt_on_error=1:print_stacktrace=1
asan: $(VENV)/.build ## the C tests under AddressSanitizer and UBSan
	$(call c_build,asan,-Dchecks=true -Db_sanitize=address$(comma)undefined -Db_lundef=false)
	$(call c_test,asan,--suite core -t 4)

.PHONY: tsan
tsan: export TEST_SLOWNESS = 10
# A forker holds more locks than the deadlock detector counts (64).
tsan: export TSAN_OPTIONS = halt_on_error=1:die_after_fork=0:detect_deadlocks=0
tsan: $(VENV)/.build ## the C tests under ThreadSanitizer
	# seq_cst fences are beyond it; name.c and the lanes without membarrier use them
	$(call c_build,tsan,-Db_sanitize=thread -Db_lundef=false -Dc_args=-Wno-tsan)
	setarch -R $(call c_test,tsan,--suite core -t 10)

.PHONY: valgrind
valgrind: export TEST_SLOWNESS = 30
valgrind: $(VENV)/.build ## the C tests under valgrind
	scripts/apt-packages build valgrind
	$(call c_build,valgrind)
	$(call c_test,valgrind,--suite core -t 30 \
	    --wrap 'valgrind --quiet --error-exitcode=99 --leak-check=full --trace-children=yes')

# Counts are atomic because threads share them; a killed process leaves none, so the suite
# `core` has to reach the 90 % without the kills.
.PHONY: coverage
coverage: export TEST_SLOWNESS = 4
coverage: $(VENV)/.build $(VENV)/.coverage ## lines of src/core that the C tests run: 90 % at least
	$(call c_build,coverage,-Db_coverage=true --buildtype=debug -Dc_args=-fprofile-update=atomic)
	find $(BUILD)/coverage -name '*.gcda' -delete
	$(call c_test,coverage,--suite core -t 4)
	$(BIN)/gcovr --root . --filter src/core/ --fail-under-line 90 \
	    --gcov-ignore-parse-errors=negative_hits.warn_once_per_file $(BUILD)/coverage

.PHONY: models
models: ## all models of the protocols, and the litmus tests where herd7 is, an hour [MODELS=name]
	scripts/apt-packages models
	models/run.py $(MODELS)
	models/litmus/run.sh

.PHONY: models-quick
models-quick: ## two minutes of the models
	scripts/apt-packages models
	models/run.py --quick $(MODELS)

.PHONY: matrix
matrix: $(VENV)/.build ## the Python tests with each CPython here, oldest and newest NumPy [VERSIONS=3.12]
	scripts/matrix $(VERSIONS)

# ---- static checks ------------------------------------------------------------------

C_FILES = $(wildcard include/sharena/*.h src/*/*.[ch] tests/core/*.[ch] bench/c/*.[ch] examples/*/*.[ch])

.PHONY: lint
lint: $(VENV)/.lint $(VENV)/.test $(VENV)/.demo package ## formats, types, stubs, cppcheck
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stubtest sharena._core
	$(BIN)/cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 \
	    --enable=warning,portability,performance -Iinclude -Isrc/core src/core
	rm -rf $(BUILD)/werror
	$(MESON) setup $(BUILD)/werror --werror -Dpython=enabled >/dev/null
	$(BIN)/ninja -C $(BUILD)/werror -j$(JOBS) --quiet

.PHONY: format
format: $(VENV)/.lint ## lay out all C and Python
	$(BIN)/clang-format -i $(C_FILES)
	$(BIN)/ruff format .

.PHONY: clang
clang: export CC = clang
clang: $(VENV)/.build ## build and test with clang, its warnings as errors
	scripts/apt-packages clang
	$(call c_build,clang,--werror -Dchecks=true)
	$(call c_test,clang)

.PHONY: analyze
analyze: export CFLAGS = -fanalyzer
analyze: $(VENV)/.build ## gcc's static analyzer
	rm -rf $(BUILD)/analyze
	$(MESON) setup $(BUILD)/analyze --werror -Dtests=false >/dev/null
	$(BIN)/ninja -C $(BUILD)/analyze -j$(JOBS) --quiet

# ---- release ------------------------------------------------------------------------

.PHONY: dist
dist: $(VENV)/.dist ## sdist and wheel from the last commit, tried in an empty environment
	rm -rf dist
	$(PY) -m build --outdir dist >/dev/null
	scripts/try-wheel dist/*.whl

.PHONY: clean
clean: ## remove what was built here
	rm -rf $(BUILD) dist

comma := ,

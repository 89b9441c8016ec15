# For work on pyloop itself, in the virtual environment .venv:
#
#   make build   the extension, in place, where a source changed
#   make test    the test suite            (ARGS="-k channel -x" for pytest)
#   make asan    the suite under AddressSanitizer and UBSan
#   make c-test  the C tests of csrc/core; c-asan, c-tsan and c-valgrind: under
#                those tools (CC=clang for the other compiler)
#   make ci      all that CI does, in copies of the checkout
#   make fmt     format C and Python       make lint   ruff, mypy and stubtest
#   make bench   the benchmarks (ARGS too) make clean  what builds left
#   make perf-guard  instructions per operation beside those on record
#
# One build is installed at a time: after `make asan`, `make build` and `make
# test` build again.

PYTHON = .venv/bin/python
ARGS ?=

SOURCES := $(shell find csrc -name '*.[ch]' -o -name '*.def') setup.py pyproject.toml
STAMP := build/normal
ASAN_STAMP := build/asan

.PHONY: venv build test asan c-test c-asan c-tsan c-valgrind fmt lint bench perf-guard ci clean

venv: .venv/bin/python

.venv/bin/python:
	python3 -m venv .venv

# The editable install of the first build brings the test tools as well.
build: $(STAMP)

$(STAMP): $(SOURCES) | $(PYTHON)
	$(PYTHON) -m pip install -q -e '.[test]'
	@mkdir -p build && rm -f $(ASAN_STAMP) && touch $@

test: build
	$(PYTHON) -m pytest $(ARGS)

$(ASAN_STAMP): $(SOURCES) | $(PYTHON)
	PYLOOP_SANITIZE=address,undefined $(PYTHON) -m pip install -q -e '.[test]'
	@mkdir -p build && rm -f $(STAMP) && touch $@

asan: $(ASAN_STAMP)
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0 \
	$(PYTHON) -m pytest -m 'not heavy' $(ARGS)

c-test c-asan c-tsan c-valgrind:
	$(MAKE) -C tests/c CC=$(CC) $(@:c-%=%)

fmt:
	find csrc tests benchmarks -name '*.[ch]' -exec clang-format -i {} +
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

lint:
	.ci/run lint

bench: build build/peers
	$(PYTHON) -m benchmarks $(ARGS)

# Peers that cannot be installed here are left out of the tables.
build/peers: pyproject.toml | build
	-$(PYTHON) -m pip install -q -e '.[bench]' && touch $@

perf-guard:
	.ci/run perf-guard

ci:
	.ci/run

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find pyloop -name '*.so' -delete

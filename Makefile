# make run          start PostgreSQL, an S3 server, the worker and the gateway on PORT (8080)
# make test         run all tests;  make test ARGS="tests/db -k search"  some of them
# make test-quick   run the tests that are not marked slow
# make coverage     run all tests, or ARGS, and report the lines that were not executed
# make bench        measure everything beside the same work without the gateway, in 15 minutes, and write BENCHMARKS.md;
#                   make bench-quick  a part of it in two or three;  make bench-growth  up to a million files
# make fuzz         feed the readers of headers, names, forms and contents with broken input for 20 minutes; ARGS="5 form": one
# make fuzz-api     send a hundred valid and invalid requests of each kind to a real server
# make drills       harm a whole deployment under load for an hour, in every way; ARGS="kill_web --seed 7 --seconds 120": one drill
# make lint         check style, format, types and the direction of imports;  make format  formats the code
# make lock         update the lock files after a change of pyproject.toml;  make check-locks  checks them
# make licenses     update docs/third-party-licenses.md
#
# Needed: Python 3.11 or newer with pip. To choose one: make PYTHON=/path/to/python3.12 run

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
JOBS ?= 3
# Empty: else each of the processes that tests start compiles the program again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test test-quick coverage bench bench-quick bench-growth fuzz fuzz-api drills lint format lock check-locks licenses python tools
.DEFAULT_GOAL := run

run: python
	@$(PYTHON) embedded/install.py && exec .venv/bin/python app.py

test: tools
	@exec .venv/bin/python -m pytest -n $(JOBS) $(ARGS)

test-quick: tools
	@exec .venv/bin/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

coverage: tools
	@exec .venv/bin/python -m pytest -n $(JOBS) --cov --cov-report=term-missing:skip-covered $(ARGS)

bench: python
	@$(PYTHON) embedded/install.py && exec .venv/bin/python -m benchmarks.run --out . $(ARGS)

bench-quick: python
	@$(PYTHON) embedded/install.py && exec .venv/bin/python -m benchmarks.run --quick --out var/bench-quick $(ARGS)

bench-growth: python
	@$(PYTHON) embedded/install.py && exec .venv/bin/python -m benchmarks.run --growth --out . $(ARGS)

fuzz: tools
	@exec .venv/bin/python tests/fuzz/run.py $(or $(ARGS),120)

fuzz-api: tools
	@FUZZ_EXAMPLES=100 exec .venv/bin/python -m pytest -n2 tests/api/test_any_input.py

drills: tools
	@exec .venv/bin/python -m tests.drills $(ARGS)

lint: tools
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: tools
	.venv/bin/ruff format .

lock:
	@.ci/locks write

check-locks:
	@.ci/locks check

licenses: tools
	@.ci/licenses >docs/third-party-licenses.md

tools: python
	@$(PYTHON) embedded/install.py --tests

python:
	@test -n "$(PYTHON)" || { echo "upload-gateway: Python 3.11 or newer is needed; none was found on PATH." >&2; exit 1; }

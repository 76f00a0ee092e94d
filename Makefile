# make run    everything on this machine: PostgreSQL, an S3 server, the worker and the gateway on PORT (8080)
# make test   install what the tests need and run them all
# make lint   style, types and the direction of imports
# make lock   write the lock files anew after a change of pyproject.toml;  make check-locks  says whether they are stale
#
# Needed: Python 3.11 or newer with pip. Another Python than the first one found: make PYTHON=/path/to/python3.12 run

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
JOBS ?= 2

.PHONY: run test lint lock check-locks python
.DEFAULT_GOAL := run

run: python
	@$(PYTHON) embedded/install.py && exec .venv/bin/python app.py

test: python
	@$(PYTHON) embedded/install.py --tests && exec .venv/bin/python -m pytest -n $(JOBS) $(ARGS)

lint: python
	@$(PYTHON) embedded/install.py --tests
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

lock:
	@.ci/locks write

check-locks:
	@.ci/locks check

python:
	@test -n "$(PYTHON)" || { echo "upload-gateway: Python 3.11 or newer is needed; none was found on PATH." >&2; exit 1; }

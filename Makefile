# `make check` needs no data and takes seconds; `make test` is what .ci/run runs.
PYTHON ?= python3

.PHONY: check test nets format protobuf-runtimes

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -q

nets:
	$(PYTHON) tools/make_nets.py

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# The messages on the oldest and the newest protobuf, compiled and pure Python, each in an environment of its own.
protobuf-runtimes:
	sh tests/protobuf_runtimes.sh

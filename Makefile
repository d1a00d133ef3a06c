# `make check` needs no data and takes seconds; `make test` is what .ci/run runs.
PYTHON ?= python3

.PHONY: check test nets format

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

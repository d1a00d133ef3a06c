# `make check` needs no data and takes seconds; `make test` is what .ci/run runs.
PYTHON ?= python3

.PHONY: check test quick coverage docs nets format protobuf-runtimes lower-bounds fuzz campaign interrupts kills memory long-run

check: audit-dependencies
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# Known weaknesses of the versions in constraints.txt, by pip-audit. Without the network it says that nothing was checked.
audit-dependencies:
	$(PYTHON) .ci/audit_dependencies.py

.PHONY: audit-dependencies release

# Source archive, wheel, CycloneDX list of needs and SHA256SUMS in dist/, of a commit; the extra `release` has what it takes.
release:
	$(PYTHON) .ci/release.py

test:
	$(PYTHON) -m pytest -q -n auto

# Without the tests that take more than five seconds.
quick:
	$(PYTHON) -m pytest -q -n auto -m "not slow"

# Which lines the tests reach; fails below the floor in pyproject.toml.
coverage:
	$(PYTHON) -m pytest -q -n auto --cov --cov-report=term

# The documentation as a site in site/, which opens from the folder; any warning is an error.
docs:
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(PYTHON) -m mkdocs build --strict

nets:
	$(PYTHON) tools/make_nets.py

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# The messages on the oldest and the newest protobuf, compiled and pure Python, each in an environment of its own.
protobuf-runtimes:
	sh tests/protobuf_runtimes.sh

# The oldest versions that pyproject.toml promises, on the oldest and the newest Python. Fetches gigabytes, so outside CI.
lower-bounds:
	sh tests/lower_bounds.sh

# All 20,000 spoilt files, other ones each time; `make test` takes a share, the same ones each time.
fuzz:
	FCN_CAFFE_FUZZ=20000 $(PYTHON) -m pytest -q -s tests/test_fuzz.py

# Ctrl-C and SIGTERM at random instants of every tool; `make test` takes a share.
interrupts:
	$(PYTHON) tests/reliability/interrupts.py

# The same bits: each layer and whole runs, twice and with 1 and 2 threads; some minutes.
.PHONY: same-bits
same-bits:
	PYTHONPATH=. $(PYTHON) tests/reliability/same_bits.py
	PYTHONPATH=. $(PYTHON) tests/reliability/determinism.py

# A million spoilt files over every reader there is, guided by the lines they reach; hours on one processor, outside CI.
# The report goes to campaign/, with one file of each failure. Other numbers: make campaign INPUTS=20000 SEED=7.
INPUTS ?= 1000000
SEED ?= 0
campaign:
	PYTHONPATH=.:tests $(PYTHON) -m campaign.run --inputs $(INPUTS) --seed $(SEED) --out campaign

# A thousand kills of the tools at random instants, other ones each time; `make test` takes a share, the same ones each time.
kills:
	$(PYTHON) tests/reliability/kills.py --kills 1000 --seed $$(date +%s)

# The peak of memory of fourteen runs against what is said before they start; some minutes. `make test` takes the least.
memory:
	PYTHONPATH=. $(PYTHON) tests/reliability/memory.py

# Whether memory grows in 20,000 steps of training and over 2,000 images; a few minutes.
long-run:
	PYTHONPATH=. $(PYTHON) tests/reliability/long_run.py

# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=

.PHONY: quickstart test check format backbones lock clean

quickstart: $(READY)  ## train two adapters on one 4-bit backbone and ask both
	$(BIN)/adapterhub quickstart

# As many processes as there are cores, with one thread each: the tests' models are too small for
# more. A process holds about 1.5 GB.
test: $(READY) backbones  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

backbones: $(READY)  ## fetch and convert, once, the backbones that the tests use
	$(BIN)/adapterhub backbones fetch smollm2-135m-instruct minilm-l6

check: $(READY)  ## formatting, lint, types, order of imports
	$(BIN)/ruff format --check adapterhub tests benchmarks
	$(BIN)/ruff check adapterhub tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix adapterhub tests benchmarks
	$(BIN)/ruff format adapterhub tests benchmarks

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "adapterhub needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

lock:  ## pin what is installed now
	$(BIN)/python -m pip freeze --exclude-editable | sed -e 's/^torch==.*/torch==2.13.0/' -e "s/^triton==.*/&; sys_platform == 'linux' and platform_machine == 'x86_64'/" | grep -v '^-e' > constraints.txt

clean:
	rm -rf $(VENV) runs

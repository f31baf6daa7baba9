# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=

.PHONY: quickstart test check docs format backbones lock clean

quickstart: $(READY)  ## train and try two adapters on one 4-bit backbone
	$(BIN)/adapterhub quickstart

# One process per core with one thread each, since the models of the tests are too small for more
# threads. A process takes about 1.5 GB.
test: $(READY) backbones  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

backbones: $(READY)  ## download and convert the backbones of the tests
	$(BIN)/adapterhub backbones fetch smollm2-135m-instruct minilm-l6

check: $(READY)  ## formatting, lint, types, import contracts, documentation
	$(BIN)/ruff format --check adapterhub tests benchmarks
	$(BIN)/ruff check adapterhub tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

docs: $(READY)  ## generate the reference pages and build the documentation in build/docs
	$(BIN)/python docs/make_reference.py
	$(BIN)/mkdocs build --strict --quiet

format: $(READY)
	$(BIN)/ruff check --fix adapterhub tests benchmarks
	$(BIN)/ruff format adapterhub tests benchmarks

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "adapterhub needs Python 3.11.4 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

lock:  ## pin the installed packages
	$(BIN)/python -m pip freeze --exclude-editable | sed -e 's/^torch==.*/torch==2.13.0/' -e "s/^triton==.*/&; sys_platform == 'linux' and platform_machine == 'x86_64'/" | grep -v '^-e' > constraints.txt

clean:
	rm -rf $(VENV) runs

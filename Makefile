# The two commands of a newcomer are `make report` and `make test`; each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: report test lint claims benchmarks clean

report: $(STAMP)
	$(BIN)/python -m theory report

test: lint
	$(BIN)/python -m pytest tests -q -n 2

claims: $(STAMP)
	$(BIN)/python -m theory

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) report build dist

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Patina needs Python >= 3.11; found " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 report") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $(STAMP)

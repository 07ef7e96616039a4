# Two commands set everything up on a bare machine with Python 3.11, pip and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: acceptance demo test test-bare test-slow explore mutants fuzz figures lint format bench docs clean

# Who is through with its own tests takes some of another's.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

# Tests that need an extra
EXTRAS := $(shell grep -lrE --include="*.py" "importorskip|is an extra|are an extra" tests)

# What the programs of tests/virtual import
PROGRAMS := transformers accelerate peft diffusers

demo: $(VENV)/.installed
	$(BIN)/taicang demo

test: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not slow" -rs --note-passed $(PARALLEL)

# The same where every extra is installed: what CI's bare machine lacks is hidden
test-bare: $(VENV)/.installed-dev
	BARE=1 $(BIN)/pytest -m "not slow" -rs $(PARALLEL)

# The slow part has every extra, so that no test is skipped for want of one; what is skipped says why. Of the others it
# runs what `make test` did not pass.
test-slow: $(VENV)/.installed-all browser
	$(BIN)/pytest -m slow -rs $(PARALLEL)
	$(BIN)/pytest -m "not slow" -rs --not-passed $(PARALLEL) $(EXTRAS)

# A browser for the tests of the page, from Debian's packages where that can be had
browser:
	command -v chromium >/dev/null || (apt-get update -q && apt-get install -y -q chromium) >/dev/null 2>&1 || true

# Clients of others against the endpoint, each in an environment of its own under build/acceptance
acceptance: $(VENV)/.installed-all
	$(BIN)/python tests/acceptance/run.py

explore: $(VENV)/.installed-dev
	EXPLORE=10000 $(BIN)/pytest tests/laws

# Figures of everything that is priced, as they are to stay
figures: $(VENV)/.installed-dev
	$(BIN)/python tests/golden/figures.py

mutants: $(VENV)/.installed-dev
	$(BIN)/python tests/mutants.py --count 200

fuzz: $(VENV)/.installed-dev
	$(BIN)/python tests/edge/hostile.py 20000 10000

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	for each in benchmarks/*.py; do $(BIN)/python $$each || exit 1; done

docs: $(VENV)/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-all: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,study,bayesian,plot,tokenizer,ray,serve,events,torch,browser,kubernetes]" $(PROGRAMS)
	touch $@ $(VENV)/.installed-dev $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

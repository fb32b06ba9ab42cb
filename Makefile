# make demo   adapt the bundled generator to ten sketches, sample it, evaluate it
# make test   the default tests (offline, minutes)
# make lint   style, import order, types
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo

.PHONY: demo test lint clean

# A virtual environment of its own: systems under PEP 668 refuse to install beside their own packages.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "fsgen needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "on Debian and Ubuntu: sudo apt-get install python3-venv"; exit 2; }

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.'
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(VENV)/installed
	$(BIN)/fsgen adapt examples/ten_sketches --out $(DEMO)/run --force
	$(BIN)/fsgen sample $(DEMO)/run --grid 8x4 --compare peeps64 --out $(DEMO)/pairs.png
	$(BIN)/fsgen eval $(DEMO)/run --real examples/ten_sketches --samples 500
	@echo
	@echo "look at $(DEMO)/pairs.png: rows of the source, each with the adapted images below, from the same z"
	@echo "and open $(DEMO)/run/report.html in a browser: scores, images, curves"

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/installed-test
	$(BIN)/ruff check fsgen tests examples
	$(BIN)/ruff format --check fsgen tests examples
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info

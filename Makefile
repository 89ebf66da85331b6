# medmap: `make demo` shows it, `make test` proves it. Both need only Python >= 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
JOBS   ?= 2
DEMO   := medmap-demo
# A finished demo, an empty folder or nothing; anything else of that name is somebody's, and left alone.
OWN    := [ -f $(DEMO)/run/bundle/spec.json ] || [ -z "$$(ls -A $(DEMO) 2>/dev/null)" ]
OTHER  := echo "$(DEMO) is no finished demo and is left alone: move or remove it yourself" >&2

.PHONY: install demo test check docs bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "medmap needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	@if $(OWN); then rm -rf $(DEMO); else $(OTHER); exit 1; fi
	$(BIN)/medmap demo $(DEMO)

check: $(STAMP)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python docs/check_links.py

test: check
	$(BIN)/python -m pytest -n $(JOBS)

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

bench: $(STAMP)
	$(BIN)/python benchmarks/train_speed.py
	$(BIN)/python benchmarks/startup.py

clean:
	rm -rf $(VENV) site build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	@if $(OWN); then rm -rf $(DEMO); else $(OTHER); fi

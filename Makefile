# Needs Python 3.11 or newer and nothing else; everything is installed into .venv, once.
# Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help demo test lint bench

help:
	@echo "make demo   train on drawn pedestrians and search them: minutes on a laptop, no data needed"
	@echo "make test   run the tests"
	@echo "make lint   check style and types"
	@echo "make bench  time everything against PyTorch: 20 minutes on two cores (docs/performance.md)"

demo: $(VENV)/.installed
	$(RUN) -m ivt_jax demo

test: $(VENV)/.installed-dev
	$(RUN) -m pytest

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

bench: $(VENV)/.installed-dev
	$(RUN) -m benchmarks.bench

# The stamps are as old as the last installation, so a changed list of packages installs again.
$(VENV)/.installed: requirements.txt | $(VENV)/pyvenv.cfg
	@echo "Installing what a run needs into $(VENV) (about 1 GB, once) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt | $(VENV)/pyvenv.cfg
	@echo "Installing what the tests need into $(VENV) (with PyTorch, several GB at most, once) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.installed

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than Python 3.11: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV) || $(PYTHON) -m virtualenv --quiet $(VENV) || { rm -rf $(VENV); \
	  echo "No virtual environment could be made: install python3-venv (Debian, Ubuntu) or virtualenv."; exit 1; }

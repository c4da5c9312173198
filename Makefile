# Every target is one line over `mmo …`, which works the same where there is no make:
#   python -m venv .venv && .venv/bin/python -m pip install -c constraints.txt -e ".[test]" && .venv/bin/mmo weekend
#
#   make weekend                 train T2A -> A2A -> I2T, evaluate, write runs/tiny/weekend.html and report.json
#   make weekend BUDGET=smoke    the same path in a few minutes, into runs/tiny-smoke
#   make test | test-fast        unit tests and the notebooks as tests | unit tests only
#   make lab                     JupyterLab        make doctor   what can run here, and what is missing
#   make book                    the executed notebooks as pages to read and listen to, into runs/book
#   make slides                  the same as slides, into runs/slides
#   make venv                    create or renew .venv from constraints.txt

BUDGET  ?= full
PROFILE ?= $(or $(MMO_PROFILE),tiny)
PYTHON  ?= python3
VENV    ?= .venv
# One more pip index; with PyTorch's CPU builds there, pip prefers them to the CUDA ones (docs/install.md).
TORCH_INDEX ?=

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip
MMO := $(BIN)/python -m mmo
INSTALLED := $(VENV)/.mmo-installed

.DEFAULT_GOAL := help
.PHONY: help venv weekend test test-fast lab doctor book slides constraints

help:
	@sed -n 's/^#  *\(make .*\)/\1/p' Makefile

weekend: | $(INSTALLED)
	$(MMO) weekend --profile $(PROFILE) --budget $(BUDGET)

test: | $(INSTALLED)
	$(MMO) test

test-fast: | $(INSTALLED)
	$(MMO) test --fast

lab: | $(INSTALLED)
	$(BIN)/python -m jupyterlab

doctor: | $(INSTALLED)
	$(MMO) doctor --profile $(PROFILE)

book: | $(INSTALLED)
	$(MMO) course book

slides: | $(INSTALLED)
	$(MMO) course slides

# An order-only prerequisite above: an existing environment is used as it is, so that nothing needs the network again.
# `make venv` renews it after constraints.txt has changed; `mmo doctor` says when that is needed.
venv:
	rm -f $(INSTALLED)
	$(MAKE) $(INSTALLED)

$(INSTALLED):
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v[:2] <= (3, 12) else f"Python 3.10, 3.11 or 3.12 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e ".[test]"
	touch $@

# For maintainers (needs uv): pin everything again, for Python 3.10-3.12 on Linux, macOS and Windows.
constraints:
	uv pip compile --universal --python-version 3.10 --all-extras --upgrade --custom-compile-command "make constraints" -o constraints.txt pyproject.toml

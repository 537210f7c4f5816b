# `make` is check and test; `make chat` is the quickest way to see what this is.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Corpora and checkpoints for the longer tests and recipes; tests skip without them.
ifneq ($(wildcard ../shared/data/README.md),)
export GPTKIT_DATA ?= $(abspath ../shared/data)
endif

.PHONY: all chat test slow check fix docs bench size clean

all: check test

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (the first time takes a few minutes) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

chat: $(STAMP)
	@$(BIN)/gptkit chat

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m slow

check: $(STAMP)
	$(BIN)/ruff format --check gptkit plugins prompts tests
	$(BIN)/ruff check gptkit plugins prompts tests
	$(BIN)/mypy --strict gptkit plugins
	$(BIN)/lint-imports

fix: $(STAMP)
	$(BIN)/ruff format gptkit plugins prompts tests
	$(BIN)/ruff check --fix gptkit plugins prompts tests

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

$(VENV)/.bench: $(STAMP)
	@echo "installing the peers ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m tests.benchmarks

size:
	@git ls-files '*.py' | xargs wc -l | sort -n | tail -30

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

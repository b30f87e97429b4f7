# The two commands of the README. Each makes its own virtual environment.
PYTHON ?= python3
.DEFAULT_GOAL := demo
.PHONY: demo test lint clean

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --editable .
	touch $@

.venv-test/ready: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --upgrade pip
	.venv-test/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/demo ## Start a small server, load it, attach, and show where its CPU time went.
	.venv/bin/cputax demo

test: .venv-test/ready lint ## Run every check and every test, the live ones on a real vLLM too.
	.venv-test/bin/python -m pytest

lint: .venv-test/ready
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	.venv-test/bin/lint-imports

clean:
	rm -rf .venv .venv-test .mypy_cache .ruff_cache .pytest_cache

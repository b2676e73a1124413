# Every target works in a fresh clone: install.sh installs missing dependencies, in the active environment or in .venv.

PYTHON_OF_ENV = "$$(bash install.sh --print-python)"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types format docs release audit lock clean

help: ## show this help
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 16

setup: ## install FednnU-Net and its dependencies
	bash install.sh

demo: ## set up, then run a small federated training on this machine
	bash install.sh
	$(PYTHON_OF_ENV) -m fednnunet demo $(ARGS)

test: ## set up, then run the tests (a selection: make test ARGS="-k name")
	bash install.sh --dev
	$(PYTHON_OF_ENV) -m pytest -n 2 --dist loadfile $(ARGS)

lint: ## check style and format
	bash install.sh --dev
	$(PYTHON_OF_ENV) -m ruff check .
	$(PYTHON_OF_ENV) -m ruff format --check .

types: ## check the types
	bash install.sh --dev
	$(PYTHON_OF_ENV) -m mypy

format: ## fix style and format
	bash install.sh --dev
	$(PYTHON_OF_ENV) -m ruff check --fix .
	$(PYTHON_OF_ENV) -m ruff format .

docs: ## build the documentation: build/docs/index.html
	bash install.sh --dev
	$(PYTHON_OF_ENV) -m sphinx -q -W --keep-going -d build/doctrees docs build/docs

release: ## build the wheel and the source distribution in dist, and test the wheel outside the clone
	bash install.sh --dev
	rm -rf dist build
	$(PYTHON_OF_ENV) tools/release.py dist
	$(PYTHON_OF_ENV) -m pytest -q tests/test_release.py

audit: ## look up known vulnerabilities of all installed packages
	bash install.sh
	$(PYTHON_OF_ENV) -m venv .audit
	.audit/bin/python -m pip install --quiet --upgrade pip-audit
	$(PYTHON_OF_ENV) tools/audit.py list >.audit/installed.txt
	rm -f .audit/found.json
	.audit/bin/pip-audit --requirement .audit/installed.txt --no-deps --disable-pip --progress-spinner off \
		--format json --output .audit/found.json || true # tools/audit.py checks the result
	$(PYTHON_OF_ENV) tools/audit.py check .audit/found.json <.audit/installed.txt

lock: ## rewrite requirements.lock: the archives of constraints.txt on PyPI, with their hashes
	$(PYTHON_OF_ENV) -m venv .audit
	.audit/bin/python -m pip install --quiet --upgrade uv
	echo setuptools | .audit/bin/uv pip compile --quiet --no-config --generate-hashes --universal \
		--python-version 3.11 --no-annotate --custom-compile-command "make lock" \
		--constraints constraints.txt pyproject.toml - --output-file requirements.lock

clean: ## remove caches and build files (not .venv, not results)
	rm -rf build dist *.egg-info .audit .pytest_cache .ruff_cache .mypy_cache .hypothesis docs/cli
	find fednnunet tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

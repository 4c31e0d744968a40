# Everything starts here. Only Python 3.11 or newer, with its venv module, and git have to be there before.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
UV := $(VENV)/bin/uv
PROJECTS := pyproject.toml packages/runyard-azureml/pyproject.toml constraints.txt
# Byte code is written, at the install and later: without it every process reads all of its source anew, and the first
# import of a large library takes several times as long.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(UV) pip install --quiet --python $(RUN) --compile-bytecode \
	--constraint constraints.txt --editable '.[server,examples]' --editable packages/runyard-azureml
# The rooms that may run inside or beside a user's job.
KIT := src/runyard/__init__.py src/runyard/errors.py $(wildcard $(addprefix src/runyard/,protocol files client scoring sdk azureml environments runner))
# Newer than 3.7, and used only where the running Python has them, or by the type checker alone.
GUARDED := os.pidfd_open signal.pidfd_send_signal typing.dataclass_transform typing.Protocol

.PHONY: help quickstart fmt lint check test e2e bench serve docs schema lock
.DELETE_ON_ERROR:

help: ## show this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.ready ## train, follow and register a first model on this machine
	@$(RUN) examples/quickstart.py

fmt: $(VENV)/.ready-dev ## format the code, and mend what the linter can mend safely
	@$(RUN) -m ruff check --quiet --fix --exit-zero .
	@$(RUN) -m ruff format .

lint: $(VENV)/.ready-dev ## format, lint, types, floors and Python 3.7
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/vermin --quiet --no-tips --violations -t=3.7- $(addprefix --exclude ,$(GUARDED)) $(KIT)

check: lint ## lint, and the code's shape
	$(RUN) -m pytest -q tests/shape

test: lint ## lint, and run every test
	@bash tests/system-packages.sh
	$(RUN) -m pytest -n 3 --dist loadgroup

e2e: $(VENV)/.ready-dev ## run only the tests that start a server and run real jobs
	@bash tests/system-packages.sh
	$(RUN) -m pytest -m e2e

bench: $(VENV)/.ready-dev ## measure, each number beside a peer or a limit of the machine
	@$(RUN) -m bench

serve: $(VENV)/.ready ## run a server in the foreground, until Ctrl-C
	@$(VENV)/bin/runyard up --foreground

docs: $(VENV)/.ready-dev ## check that the documentation is whole: links, blocks, names
	$(RUN) -m pytest -q tests/shape/test_docs.py tests/shape/test_coverage_table.py

schema: $(VENV)/.ready-dev ## write the text of the database's schema anew from its tables
	@$(RUN) -c 'from runyard.db.engine import SCHEMA_FILE, schema_text; SCHEMA_FILE.write_text(schema_text(), "utf-8")'

lock: $(VENV)/.ready-dev ## pin the newest set of packages that we develop on
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--extra server --extra examples --extra s3 --extra azure --group dev --output-file constraints.txt pyproject.toml

$(UV): constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Runyard needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@echo "Making $(VENV) (once; about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install -qq --disable-pip-version-check "uv==$$(sed -n 's/^uv==\([^ ]*\).*/\1/p' constraints.txt)"
	@touch $(UV)

$(VENV)/.ready: $(UV) $(PROJECTS)
	@$(INSTALL)
	@touch $@

$(VENV)/.ready-dev: $(UV) $(PROJECTS)
	@$(INSTALL) --group dev
	@touch $@ $(VENV)/.ready

# Everything that a newcomer and CI need. `make demo` installs what the service needs, all other targets also install the
# tools of the developers.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SERVICE := $(VENV)/.installed
STAMP := $(VENV)/.installed-tools
PROJECTS := pyproject.toml $(wildcard core/pyproject.toml plugins/*/pyproject.toml)

IDENTITY := import sys; print(sys.version.split()[0], "of", sys.base_prefix)
# Builds in isolated environments would take twice as long.
INSTALL := $(BIN)/python tools/install.py build/install.log --no-build-isolation

.PHONY: help interpreter demo test test-slow lint format docs reference transcript pictures api audit constraints dist bench faults corpus fuzz clean

help:
	@echo "make demo    show the whole path in a temporary folder: studies, jobs, results in a PACS (30 seconds, after the set-up)"
	@echo "make test    run the tests, except the slow ones"
	@echo "make test-slow  run the slow tests: killed processes, full disks, power loss, other tools"
	@echo "make lint    check format, lint, types and import rules"
	@echo "make format  format the code"
	@echo "make docs    build the documentation into build/site; a warning, such as of a broken link, is an error"
	@echo "make reference  update the tables of docs/configuration.md from the settings classes"
	@echo "make transcript  run the commands of docs/how-to/find-a-study.md, and write their output to the page"
	@echo "make pictures  take the pictures of docs/how-to/dashboard.md with a real service and Chromium (two minutes)"
	@echo "make api     update the snapshot of the public API, which a test compares with the code"
	@echo "make audit   look for published vulnerabilities of the dependencies; needs an index with advisories"
	@echo "make constraints  write the installed versions to constraints.txt"
	@echo "make dist    build the packages of all distributions, reproducibly, into dist/"
	@echo "make bench   measure the adapter and other receivers that are installed (20 minutes; writes docs/performance.md)"
	@echo "make bench QUICK=1   the same in four minutes, only with the receivers that have targets (writes nothing)"
	@echo "make bench WHAT=uploads|delivery|stow|replay|due|pending|look_up|dashboard|cache|isolation ARGS=...  measure something else"
	@echo "make faults  kill the adapter, let platform, destinations, disk and network fail, and check that nothing is lost"
	@echo "             (MINUTES=10 SEED=1)"
	@echo "make corpus  send odd data sets and associations to the adapter and other receivers (ARGS=--write: update the page)"
	@echo "make fuzz    fuzz the network code, guided by coverage (TARGET=acceptor|identity|proxy MINUTES=5)"
	@echo "make clean   remove the virtual environment and caches"

# An environment keeps the interpreter with which it was made, so another PYTHON would have no effect: report it.
interpreter:
	@[ ! -e $(BIN)/python ] || $(BIN)/python -c '' \
	  || { echo "The interpreter of $(VENV) does not run any more: run \`make clean\`, then try again."; exit 1; }
	@[ ! -e $(BIN)/python -o "$(origin PYTHON)" = file ] \
	  || [ "$$($(PYTHON) -c '$(IDENTITY)')" = "$$($(BIN)/python -c '$(IDENTITY)')" ] \
	  || { echo "$(VENV) has Python $$($(BIN)/python -c '$(IDENTITY)'), not $(PYTHON):" \
	    "run \`make clean\` first, or name another environment with VENV=FOLDER."; exit 1; }

$(SERVICE): $(PROJECTS) | interpreter
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "dicom-adapter needs Python 3.10 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV) once: a virtual environment with the service."
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python cannot make virtual environments here: install its venv module (Debian: python3-venv)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "hatchling>=1.24" "editables>=0.5"
	@$(INSTALL) -e core -e plugins/aetitle -e plugins/cache -e plugins/clara_client -e plugins/pipelines -e plugins/delivery -e plugins/notify -e .
	@touch $@

$(STAMP): $(SERVICE) | interpreter
	@echo "Adding the tools for tests, lint and documentation to $(VENV) once."
	@$(INSTALL) -e ".[dev,docs]"
	@touch $@

demo: $(SERVICE)
	@$(BIN)/dicom-adapter demo

# Some machines forbid files of bytecode. Then each process of the tests would compile all modules again.
test test-slow: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)
	$(BIN)/python -m pytest -n 4 --dist worksteal -m "not slow" $(ARGS)

# Each process collects all tests that it is given: without the modules that have no slow test, in a third of the time.
test-slow: SLOW := $(shell grep -rl --include='test_*.py' 'mark\.slow' core/tests plugins tests)
test-slow: $(STAMP)
	$(BIN)/python -m pytest -n 4 --dist worksteal -m slow $(or $(ARGS),$(SLOW))

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy bench
	$(BIN)/mypy tools/manual
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going docs build/site
	@echo "The start page is build/site/index.html"

reference: $(STAMP)
	@cd tools && $(abspath $(BIN))/python -m manual

transcript: $(STAMP)
	DICOM_ADAPTER_WRITE_TRANSCRIPT=1 $(BIN)/python -m pytest -q -n 0 tests/acceptance/test_find_a_study.py

pictures: $(STAMP)
	DICOM_ADAPTER_WRITE_PICTURES=1 DICOM_ADAPTER_TESTS_REQUIRE=chromium \
	  $(BIN)/python -m pytest -q -n 0 tests/acceptance/test_pictures.py

api: $(STAMP)
	$(BIN)/python tools/public_api.py

# pip-audit has an environment of its own. With --strict, an index without advisories is an error, not a good result.
audit: $(STAMP)
	@$(PYTHON) -m venv build/audit
	@build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@$(BIN)/python tools/requirements.py lowest > build/audit/lowest.txt
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt $(ARGS)
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement build/audit/lowest.txt $(ARGS)

constraints: $(STAMP)
	@mkdir -p build && $(BIN)/python tools/requirements.py tested > build/constraints.txt
	@mv build/constraints.txt constraints.txt

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python tools/build_packages.py dist

bench: WHAT ?= receiving
bench: $(STAMP)
	$(BIN)/python bench/$(WHAT).py $(if $(QUICK),--quick) $(ARGS)

faults: MINUTES ?= 10
faults: SEED ?= 1
faults: $(STAMP)
	@cd tests && PYTHONPATH=$(abspath bench) $(abspath $(BIN))/python -m faults --minutes $(MINUTES) --seed $(SEED) $(ARGS)

corpus: $(STAMP)
	@cd tests && PYTHONPATH=$(abspath bench) $(abspath $(BIN))/python -m corpus $(ARGS)

fuzz: MINUTES ?= 5
fuzz: TARGET ?= acceptor
fuzz: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	@cd tests && $(abspath $(BIN))/python -m fuzz $(TARGET) --minutes $(MINUTES) $(ARGS)

clean:
	rm -rf $(VENV) build dist docs/reference .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

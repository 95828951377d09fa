# Everything sets itself up: a machine needs make and Python 3.10 or newer, and access to a Python package index.
#   make test            the tests             make lint        ruff, mypy, salt-lint, yamllint
#   make test-slow       those with daemons, real parts, and a kill at every step
#   make demo            the guided tour       make wheel       dist/*.whl
#   make dist            the tarball for a master: dist/gpu-slicing-<version>.tar.gz
#   make test-salt3006   those that depend on Salt or on the version of Python, on the older Salt
#   make test-gpu        what can be read of this machine's own GPUs, compared with the catalog; changes nothing
#   make kube-apiserver  an API server of Kubernetes for the slow tests, built once from Debian's source in some minutes
#   make dmem-kernel     a kernel for tests/parts/test_dmem_vm.py, in ten minutes; then test-slow runs it
#   make mutation        which share of small defects the tests notice, by file
# PYTHON=/path/to/python3 chooses the interpreter; PYTEST_ARGS="-k mig" goes to pytest; JOBS=1 runs one test at a time.

USABLE := import sys, venv; sys.exit(not sys.version_info >= (3, 10))
ON_3006 := import sys, venv; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))
# The first candidate that really runs: a shim of a version manager may be on the path and refuse.
first = $(shell for p in $(2); do "$$p" -c '$(1)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

PYENV := $(wildcard $(HOME)/.pyenv/versions)
PYTHON ?= $(call first,$(USABLE),python3 python3.14 python3.13 python3.12 python3.11 python3.10)
PYTHON3006 ?= $(call first,$(ON_3006),python3.10 $(wildcard $(PYENV)/3.10.*/bin/python3.10) python3.11 \
    $(wildcard $(PYENV)/3.11.*/bin/python3.11) python3)

VENV := .venv
VENV3006 := .venv-salt3006
# Newer than its pins: nothing to install.
STAMP := $(VENV)/.installed
STAMP3006 := $(VENV3006)/.installed
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PYTEST_ARGS ?=
# Tests of one file stay in one process, for what they share is dear: a virtual machine, a library that is compiled.
JOBS ?= $(shell expr `getconf _NPROCESSORS_ONLN` + 1)
PARALLEL := -n $(JOBS) --dist loadfile
MUTATION_ARGS ?=
# What is compiled is kept, whatever the machine says: hundreds of programs that tests start would compile the engine each.
export PYTHONDONTWRITEBYTECODE :=
# The quick tests write in memory where there is room: simulated hosts keep records that last, and a disk answers in milliseconds.
MEMORY := $(shell [ "$$(df --output=avail -m /dev/shm 2>/dev/null | tail -n 1)" -gt 2000 ] 2>/dev/null && \
    ! grep -q '^[^ ]* /dev/shm [^ ]* [^ ]*noexec' /proc/mounts && echo /dev/shm)
QUICK := -m "not slow" -o tmp_path_retention_policy=failed
quick = $(if $(MEMORY),PYTEST_DEBUG_TEMPROOT=$(MEMORY)) $(1)/bin/python -m pytest $(PARALLEL) $(QUICK)

.DEFAULT_GOAL := help
.PHONY: help venv test test-slow test-gpu kube-apiserver dmem-kernel unit mutation lint dist wheel bench demo clean
.PHONY: venv-salt3006 test-salt3006 has-python-for-salt3006

help:
	@sed -n '2,11s/^# \{0,1\}//p' Makefile

# $(1) the interpreter, $(2) the environment, $(3) the pins, $(4) what to say where no interpreter was found
define make_venv
	@test -n "$(1)" || { echo "$(4)" >&2; exit 1; }
	@"$(2)/bin/python" -m pip --version >/dev/null 2>&1 || { \
	    echo "Creating $(2) with $(1)"; \
	    "$(1)" -m venv "$(2)" || { rm -rf "$(2)"; \
	        echo "$(1) can't create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; }
	@echo "Installing $(3) into $(2)"
	@"$(2)/bin/python" $(PIP_INSTALL) -r "$(3)"
	@touch "$(2)/.installed"
endef

venv: $(STAMP)

$(STAMP): requirements-dev.txt
	$(call make_venv,$(PYTHON),$(VENV),requirements-dev.txt,No Python 3.10 or newer found; name one: make PYTHON=/path/to/python3 test)

$(STAMP3006): requirements-salt3006.txt
	$(call make_venv,$(PYTHON3006),$(VENV3006),requirements-salt3006.txt,Salt 3006 needs Python 3.10 or 3.11; name one: \
	    make PYTHON3006=/path/to/python3.10 test-salt3006)

test: $(STAMP)
	$(call quick,$(VENV)) $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(VENV)/bin/python -m pytest $(PARALLEL) -m slow $(PYTEST_ARGS)

# Not collected by the others: a machine without a GPU has nothing to skip.
test-gpu: $(STAMP)
	$(VENV)/bin/python -m pytest tests/gpu/look.py -v $(PYTEST_ARGS)

kube-apiserver:
	tests/parts/kube/fetch --build

unit: $(STAMP)
	$(VENV)/bin/python -m pytest $(PARALLEL) tests/unit $(PYTEST_ARGS)

dmem-kernel:
	tests/parts/dmem/fetch --build

# An hour or two on two processors: what each test reaches is learned first, and kept in build/mutation.
mutation: $(STAMP)
	$(VENV)/bin/python -m tests.mutation $(MUTATION_ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check --output-format concise .
	$(VENV)/bin/mypy
	find states examples/master -name '*.sls' -o -name '*.jinja' | sort | xargs -r $(VENV)/bin/salt-lint
	find examples -path examples/master -prune -o \( -name '*.yaml' -o -name '*.yml' -o -name '*.sls' \) -print | sort | \
	    xargs -r $(VENV)/bin/yamllint --strict pillar.example .salt-lint .yamllint .pre-commit-config.yaml

# What goes through Salt, and what hangs on the version of Python: the engine knows no Salt, so that what the other run finds in it
# with its own contracts, faults and documents need not be found twice.
ON_SALT3006 := tests/salt tests/unit tests/parts $(addprefix tests/engine/,test_reconcile.py test_interrupted.py test_damage.py)
TREE_ONLY := $(addprefix --ignore=tests/unit/,test_types.py test_documents.py test_house_rules.py test_rooms.py test_error_sites.py)

venv-salt3006: $(STAMP3006)

test-salt3006: $(STAMP3006)
	$(call quick,$(VENV3006)) $(ON_SALT3006) $(TREE_ONLY) $(PYTEST_ARGS)

has-python-for-salt3006:
	@test -n "$(PYTHON3006)"

wheel: $(STAMP)
	$(VENV)/bin/python -m build --wheel --no-isolation --outdir dist .

dist:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 or newer found; name one: make PYTHON=/path/to/python3 dist" >&2; exit 1; }
	@$(PYTHON) release/tarball.py

bench: $(STAMP)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; PYTHONPATH=_utils $(VENV)/bin/python "$$script"; done

demo: $(STAMP)
	$(VENV)/bin/python examples/demo.py

clean:
	rm -rf $(VENV) $(VENV3006) build dist demo .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

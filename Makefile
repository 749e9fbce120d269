# make run     install, then train the main job (a Memo agent on Dark Key-To-Door) on this machine
# make test    install, then lint, check types and run the tests
# make notebooks   install, then execute the notebooks in full and keep what they show
# make mutants     install, then change memrl a little in 60 places and list the changes that no test sees (an hour)
# make fuzz    install, then try the command line tools with 1,000 random wrong inputs (minutes)
# make docs    install, then build the documentation into site/
# make slurm   install, then test grids and runs on a SLURM of this machine (by root; Debian: slurm-wlm, munge)
# make clean   remove the virtual environments and the caches
#
# Another interpreter: make test PYTHON=python3.12. It gets a virtual environment of its own (.venv-3.12), so that
# changing back and forth installs nothing twice.

PYTHON ?= python3
# pyenv finds python3.12 only where PYENV_VERSION=3.12 selects it; without pyenv that means nothing.
INTERPRETER := $(patsubst python3.%,PYENV_VERSION=3.%,$(filter python3.%,$(PYTHON))) $(PYTHON)
ifeq ($(origin PYTHON),file)
VENV := .venv
else
VERSION := $(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv-$(or $(VERSION),$(error Cannot run PYTHON=$(PYTHON)))
endif

.PHONY: run test fuzz notebooks mutants docs slurm clean

run: $(VENV)/.installed
	$(VENV)/bin/python -m experiments.run --config memo_gridworld

test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/python -m pytest -n auto --dist loadgroup

fuzz: $(VENV)/.installed
	$(VENV)/bin/python tests/fuzz.py

notebooks: $(VENV)/.installed
	$(VENV)/bin/python tests/execute_notebooks.py

mutants: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	$(VENV)/bin/python tests/mutants.py

docs: $(VENV)/.installed
	$(VENV)/bin/python docs/build.py

slurm: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -n 0 -m slow tests/experiments/test_slurm.py

# The stamp is written last: an installation that was interrupted or failed is done again.
$(VENV)/.installed: pyproject.toml requirements.txt
	@echo "Installing memrl into $(VENV) (a minute or two) ..."
	$(INTERPRETER) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .venv-* .pytest_cache .ruff_cache *.egg-info build site

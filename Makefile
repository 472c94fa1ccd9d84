# `make demo`: set up, then run the maps notebook.   `make test`: set up, then run all notebooks and tests.
# Everything is installed into .venv inside this folder, in the versions of constraints.txt; each command can be repeated.
PYTHON ?= python3
BIN    := .venv/bin
N      ?= 128
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test setup lock readme clean

setup: .venv/ready

.venv/ready: setup.py settings.ini constraints.txt
	@$(PYTHON) -c "import sys; v=sys.version_info; sys.exit(0 if v >= (3, 11) else f'dde_kit needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...')"
	@echo "Setting up .venv (a few minutes, about 6 GB: most of it is torch) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

demo: setup
	@mkdir -p out
	papermill nbs/30_maps.ipynb out/30_maps.ipynb -p N $(N)
	@echo; echo "The executed notebook: out/30_maps.ipynb (open it with: .venv/bin/jupyter lab out/30_maps.ipynb)"
	@echo "Table and pictures:    results/maps/tiny/N$(N)-*.csv, .json, .png"

# Two notebooks, then two files of tests at a time, with one thread of torch each: busy threads on shared cores wait
# for each other.
test: setup
	ruff check --quiet
	OMP_NUM_THREADS=1 DDE_KIT_RESULTS="$(CURDIR)/out/results" nbdev_test --n_workers 2 --timing
	OMP_NUM_THREADS=1 pytest -q -n 2 --dist loadfile

# The newest versions that the ranges of settings.ini allow, one set for all these Pythons. Then: make test.
PYTHONS ?= python3.11 python3.12
lock:
	rm -rf out/lock && mkdir -p out && : > out/constraints.txt
	set -e; for python in $(PYTHONS); do \
	  $$python -m venv --clear out/lock; \
	  out/lock/bin/python -m pip install --quiet -c out/constraints.txt -e '.[dev]'; \
	  out/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+.*//' >> out/constraints.txt; \
	done
	{ echo "# Made by 'make lock' from settings.ini: what 'make demo' and 'make test' install."; \
	  sort -fu out/constraints.txt; } > constraints.txt
	rm -rf out/lock out/constraints.txt

readme: setup
	cd nbs && jupyter nbconvert --to markdown --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_input_tags=noinput --output-dir .. --output README index.ipynb && sed -i -e "s#](\([0-9][0-9]_\)#](nbs/\1#g" -e "s#](\.\./#](#g" ../README.md

clean:
	rm -rf out build dist *.egg-info .pytest_cache .ruff_cache

# What a contributor types. Needs Python 3.11 or newer with venv and pip, and nothing else.

PYTHON ?= python3
SEED ?= 1
IMAGE ?= checkpoint-launcher
EXTRAS ?= vertex,gs
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test format docs extras bench storm image clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(INSTALLED) ## a trunk, a control and a branch with the fixed loss, side by side
	$(PY) train.py
	$(PY) train.py +branch=ckpt15k
	$(PY) train.py +branch=ckpt15k loss=fixed
	$(PY) -m launcher.cli tree
	$(PY) -m launcher.cli verify $$(ls -d multirun_outputs/checkpoint-15k-experiments/control-* | head -n 1)

test: $(INSTALLED) ## everything that CI checks: format, lint, types, tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n 3 --dist loadscope --no-loadscope-reorder

format: $(INSTALLED) ## put the code into the one format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(INSTALLED) ## guides and API reference as a site, its links checked: site/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --clean

extras: $(INSTALLED) ## the wheel in empty environments, alone and with each extra, or with EXTRA=name; downloads gigabytes
	$(PY) -m tests.package.extras $(EXTRA)

bench: $(INSTALLED) ## the measurements behind the numbers in docs
	$(PY) -m benchmarks.start
	$(PY) -m benchmarks.loop
	$(PY) -m benchmarks.save
	$(PY) -m benchmarks.composing
	$(PY) -m benchmarks.fanout
	$(PY) -m benchmarks.restoring
	$(PY) -m benchmarks.submitting
	$(PY) -m benchmarks.tracking
	$(PY) -m benchmarks.holding
	$(PY) -m benchmarks.fetching
	$(PY) -m benchmarks.uploading
	$(PY) -m benchmarks.compare
	$(PY) -m benchmarks.reporting

storm: $(INSTALLED) ## five minutes of faults at random over siblings in the pool, and five over siblings on a real SLURM
	$(PY) -m tests.pool_storm --seconds 300 --seed $(SEED)
	$(PY) -m tests.slurm.storm --seconds 300 --seed $(SEED)

image: $(INSTALLED) ## the container image IMAGE=NAME with the libraries of EXTRAS=vertex,gs,...; needs docker
	$(VENV)/bin/hadolint Dockerfile
	docker build --build-arg EXTRAS=$(EXTRAS) --tag $(IMAGE) .

clean: ## remove what make and the tools made; runs in multirun_outputs/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an installation that was interrupted is done again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV), with the versions in constraints.txt ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

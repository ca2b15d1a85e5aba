# The same tasks as pixi.toml's, for people without pixi. The first use makes .venv and installs pinned packages.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
# DETECTOR=yolov10n, or ARGS="--detector my.onnx --dataset my/instances.json --calibration my/list.txt"
ARGS ?=
# What pip does not compile at installation, Python compiles at first use, and keeps: a third of the packages' modules.
unexport PYTHONDONTWRITEBYTECODE
DETECTORS := $(foreach name,$(DETECTOR),--detector $(name))

.PHONY: gate gate-all test test-all bench docs lint clean

gate: $(VENV)/.installed
	$(RUN) pytest tests/test_accuracy.py tests/test_artifact.py tests/test_latency.py --tier first $(DETECTORS) $(ARGS)

# Schemes that learn take minutes each to build; ARGS="-m slow" asks for them, the last -m counts.
gate-all: $(VENV)/.installed
	$(RUN) pytest tests/test_accuracy.py tests/test_artifact.py tests/test_latency.py -m "not slow and not sensitivity" $(DETECTORS) $(ARGS)

test: $(VENV)/.installed
	$(RUN) tests --tier change $(DETECTORS) $(ARGS)

# Hours: every scheme, those that learn and the sensitivity sweep among them.
test-all: $(VENV)/.installed
	$(RUN) tests --tier all $(DETECTORS) $(ARGS)

bench: $(VENV)/.installed
	$(RUN) benchmarks $(DETECTORS) $(ARGS)

# A warning is an error.
docs: $(VENV)/.installed
	$(RUN) sphinx --fail-on-warning --quiet --builder html docs build/docs

lint: $(VENV)/.installed
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else f"lowbit needs Python 3.11 or 3.12, $(PYTHON) is {v[0]}.{v[1]}. Say which: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev,torch,modelopt,brevitas]'
	touch $@

clean:
	rm -rf $(VENV) .lowbit runs

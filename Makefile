# `make demo` runs the main job on the embedded default, `make test` passes the tests. Both make
# .venv first if needed, with pip's own settings (index, cache, proxy) as they are. The demo runs on
# CPUs everywhere: its model is too small for a GPU.

PYTHON ?= python3
VENV ?= .venv
PROCESSES ?= 2
FLAGS ?=

.PHONY: demo test gpu lint clean

demo: $(VENV)/installed
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --standalone --nproc-per-node $(PROCESSES) engine/train.py demo $(FLAGS)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest

# What needs a GPU, in ten minutes; PYTHON is one that has the project installed.
gpu:
	PYTHON=$(PYTHON) bench/on_gpu.sh

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# torch first: alone it takes the build of the machine's own index or wheels, and nothing replaces it.
$(VENV)/installed: pyproject.toml $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "torch>=2.9,<2.14"
	$(VENV)/bin/pip install --quiet --editable ".[audio,dev,mimi]"
	$(VENV)/bin/pip install --quiet --no-deps "moshi==0.2.13"
	touch $@

clean:
	rm -rf $(VENV) build runs

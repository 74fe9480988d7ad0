# The two commands: `make demo` runs the main job on the embedded default, `make test` the tests.
# Both make .venv first if needed, with pip's own settings (index, cache, proxies) as they are.

PYTHON ?= python3
VENV := .venv
PROCESSES ?= 2

.PHONY: demo test lint sanitize clean

demo: $(VENV)/installed
	OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --nproc-per-node $(PROCESSES) engine/train.py demo

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# torch 2.13 is the newest release that DeepSpeed, Triton's interpreter and our kernels are tested with.
$(VENV)/installed: pyproject.toml $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "torch>=2.9,<2.14"
	$(VENV)/bin/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build runs

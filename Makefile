# `make demo` runs the main job on the embedded default, `make demo-speech` starts from speech, `make demo-text` has
# text beside speech, `make test` passes the tests. All make .venv first if needed, with pip's own settings (index,
# cache, proxy) as they are. The demos run on CPUs everywhere: their models are too small for a GPU.

# Where images forbid Python to keep what it compiles, every command would compile torch again: 10 seconds.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV ?= .venv
PROCESSES ?= 2
FLAGS ?=
DEMO ?= runs/demo
TEXT ?= runs/demo-text

SPEECH ?= runs/demo-speech
STORIES ?=
UNITS ?= 200
PREPARE = OMP_NUM_THREADS=1 $(VENV)/bin/python data/prepare.py
ON_CPUS = CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --standalone --nproc-per-node $(PROCESSES)

.PHONY: demo demo-speech demo-text test gpu lint clean
.SECONDARY:

demo: $(VENV)/installed
	$(ON_CPUS) engine/train.py demo --run-dir $(DEMO) $(FLAGS)
	OMP_NUM_THREADS=1 $(VENV)/bin/tresse report $(DEMO) --out $(DEMO)/report

demo-text: $(VENV)/installed
	$(ON_CPUS) engine/train.py demo-text --run-dir $(TEXT) $(FLAGS)
	OMP_NUM_THREADS=1 $(VENV)/bin/tresse report $(TEXT) --out $(TEXT)/report

# Texts, recordings, units, corpora, training. Every step keeps its finished work: after a stop
# the same command resumes. A step runs if its file is missing, whatever the age of other files.
demo-speech: | $(SPEECH)/corpora/train/corpus.json $(SPEECH)/corpora/valid/corpus.json $(SPEECH)/corpora/cloze/items.jsonl
	$(ON_CPUS) engine/train.py tiny --run-dir $(SPEECH)/run \
	  --data.corpus $(SPEECH)/corpora/train --data.valid $(SPEECH)/corpora/valid --data.cloze $(SPEECH)/corpora/cloze \
	  --data.packing.row-length 128 --rows-per-step 16 --micro-rows 8 --optim.lr 3e-3 --score-by mean_continuation \
	  --stages.0.tokens 600000 --stages.1.tokens 1200000 --stages.2.tokens 600000 --valid-every 200 $(FLAGS)

$(SPEECH)/texts/items.jsonl: | $(VENV)/installed
	$(PREPARE) stories --out $(SPEECH)/texts $(STORIES)

$(SPEECH)/speech/%/recordings.jsonl: | $(SPEECH)/texts/items.jsonl
	$(PREPARE) pico $(SPEECH)/texts/$*.jsonl --out $(SPEECH)/speech/$* $(VOICE)

# All endings of the cloze in one voice: another than the prompt's would tell the borrowed one.
$(SPEECH)/speech/cloze/recordings.jsonl: VOICE = --pitch 100 100 --rate 120 120

$(SPEECH)/units.safetensors: | $(SPEECH)/speech/train/recordings.jsonl
	$(PREPARE) fit-kmeans $(SPEECH)/speech/train/recordings.jsonl --units $(UNITS) --hours 1 --out $@

$(SPEECH)/corpora/%/corpus.json: | $(SPEECH)/units.safetensors $(SPEECH)/speech/%/recordings.jsonl
	$(PREPARE) audio $(SPEECH)/speech/$*/recordings.jsonl --tokenizer kmeans --kmeans $(SPEECH)/units.safetensors --out $(SPEECH)/corpora/$*

$(SPEECH)/corpora/cloze/items.jsonl: | $(SPEECH)/corpora/cloze/corpus.json
	cp $(SPEECH)/texts/items.jsonl $@.tmp && mv $@.tmp $@

# A process more than cores, tests handed out one by one. FAST=1: those of less than two seconds.
# LONG=1: also the longest ones, such as those of benchmarks, SLURM, four ranks, ThreadSanitizer.
test: $(VENV)/installed
	$(VENV)/bin/python -m pytest --numprocesses auto --maxschedchunk 1 --durations 20 $(if $(FAST),-m "not slow") $(if $(LONG),--long)

# Everything that needs a GPU, in ten minutes. The project is installed for PYTHON.
gpu:
	PYTHON=$(PYTHON) bench/on_gpu.sh

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# torch first: alone it takes the build of the machine's own index or wheels, and nothing replaces it. pip would compile
# all of its packages, which takes longer than to install them; here only what a run imports is compiled.
$(VENV)/installed: pyproject.toml $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile "torch>=2.9,<2.14"
	$(VENV)/bin/pip install --quiet --no-compile --editable ".[audio,dev,mimi,pico,translate]"
	$(VENV)/bin/pip install --quiet --no-compile --no-deps "moshi==0.2.13" "resemblyzer==0.1.4"
	$(VENV)/bin/python -c "import tresse.engine.train, transformers"
	touch $@

clean:
	rm -rf $(VENV) build runs

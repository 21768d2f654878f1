# Two commands do everything: `make run` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash

HW ?= hw1_baseline
# The first in PATH that works, shims of pyenv and pythons without venv passed over.
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3 python
WORKS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell while read -r path; do "$$path" -c '$(WORKS)' &>/dev/null </dev/null && echo "$$path" && break; \
	done < <(type -aP $(PYTHONS)))
# An index with CPU builds of torch spares several GB of CUDA on Linux, for example
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
MC_ASSETS ?= $(wildcard $(CURDIR)/../shared/assets)
export MC_ASSETS

BIN := .venv/bin
# For each of the processes that share two cores; OpenMP's idle threads would keep the others waiting. Three where
# many wait for a server or a process that starts.
# No OMP_THREAD_LIMIT: oneDNN's backward pass waits forever for threads that a limit has withheld.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive LOKY_MAX_CPU_COUNT=1
# A process that dies over a test, or exceeds its time, ends the run: a restarted one may wait forever.
ONCE := --no-loadscope-reorder --max-worker-restart 0
RUN := $(BIN)/python -m modelcompression

.PHONY: help run publish smoke homework check test nightly release torture table gallery models detect recommend confirm sync ui lab assets lint clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18
	@echo "  HW=hw5_export chooses a homework, HW=hw5_export/fastest one notebook, HW=all every one, HW=\"A B\" two"
	@echo "  TORCH_INDEX=URL another index for torch"

run: .venv/run.stamp  ## run a homework's notebook and print its rows
	$(RUN) run $(HW)

publish: .venv/run.stamp  ## the same, replace the committed notebook, send the runs, regenerate the tables
	$(RUN) publish $(HW)

smoke: HW = all
smoke: .venv/run.stamp  ## the notebooks of HW=all, or HW's, on a handful of images, no tables
	$(RUN) smoke $(HW)

homework: .venv/test.stamp  ## a new homework, HW=hw7_example: its notebook, its test (CONTRIBUTING.md)
	$(RUN) new $(HW)

check: .venv/test.stamp lint  ## lint and all fast tests, in two minutes
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 $(ONCE) -m "not slow and not nightly"

test: .venv/test.stamp lint  ## all tests but the nightly ones, the notebooks in smoke mode included
	$(ONE_THREAD) $(BIN)/python -m pytest -n 3 $(ONCE)

nightly: .venv/test.stamp  ## what takes too long for make test: all notebooks with another detector, other networks
	$(ONE_THREAD) $(BIN)/python -m pytest -n 3 $(ONCE) -m nightly

torture: .venv/test.stamp  ## kill, fill the disk, break the server, compress all kinds: is anything lost? (about ten minutes)
	$(BIN)/python tests/torture.py

lint: .venv/test.stamp  ## ruff over code and notebooks, tables against results.csv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python results/aggregate.py --check

release:  ## what a release attaches: the files of models/ and their sha256, in build/release/
	rm -rf build/release
	mkdir -p build/release
	find models -type f ! -name '*.md' ! -name '.*' -exec cp -t build/release {} +
	cd build/release && sha256sum -- * > SHA256SUMS

table: .venv/run.stamp  ## regenerate results.csv, figures and README tables from the runs
	$(BIN)/python results/aggregate.py

gallery: .venv/run.stamp  ## redraw the gallery of detections from the runs that won
	$(BIN)/python results/aggregate.py
	$(BIN)/python results/gallery.py
	$(BIN)/python results/aggregate.py

models: .venv/run.stamp  ## the cards of models/ anew; NAME=small FROM="an experiment" takes that run's file
	$(BIN)/python results/models.py $(NAME) $(if $(FROM),--run "$(FROM)") \
		$(if $(FILE),--file "$(FILE)") $(if $(RECORD),--record "$(RECORD)") $(if $(CONFIRMED),--confirmed "$(CONFIRMED)")

detect: .venv/run.stamp  ## find objects in PHOTO=photo.jpg, a folder, a video; boxes are drawn into build/boxes
	$(RUN) detect $(PHOTO) --save build/boxes

recommend: .venv/run.stamp  ## which published model is best on this CPU: times them for two minutes
	$(RUN) recommend

confirm: .venv/run.stamp  ## the winners again, on 1,000 photographs and in fresh processes
	$(RUN) confirm

sync: .venv/run.stamp  ## send runs kept in the local store to the tracking server
	$(RUN) sync

ui: .venv/run.stamp  ## look at the local runs in a browser
	$(RUN) ui

lab: .venv/run.stamp  ## JupyterLab on the first homework
	$(BIN)/jupyter lab hw1_baseline/baseline.ipynb

assets: .venv/run.stamp  ## find or fetch weights and images
	$(RUN) assets

clean:  ## remove what runs left behind, not the environment, the images or the runs
	rm -rf build runs results/executed

.venv/run.stamp: requirements.txt requirements-detect.txt constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with the module venv found: install one" \
		"(Debian, Ubuntu: apt install python3 python3-venv), or make run PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys' &>/dev/null || \
		{ echo "error: $(PYTHON) does not run: make run PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11: make run PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' &>/dev/null || \
		{ echo "error: $(PYTHON) has no module venv: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet --index-url $(TORCH_INDEX) --no-deps torch torchvision -c constraints.txt)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[all]"
	touch $@

.venv/test.stamp: .venv/run.stamp requirements-test.txt
	$(BIN)/pip install --quiet -c constraints.txt -r requirements-test.txt
	touch $@

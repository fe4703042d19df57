# Every target sets up its own environment first, in .venv; all it needs is Python 3.11 or newer (test-oldest: 3.11).
# Options: JOBS=2 (test processes) ARGS=... (for pytest or the benchmark) DEMO_ARGS=... (for the demo) PYTHON=...
# POLICY='CutMix(alpha=0.2)' DATA=data (for the leaderboard)
PYTHON ?=
JOBS ?= 2
ARGS ?=
DEMO_ARGS ?=
POLICY ?= CutMix(alpha=1.0)
DATA ?= data
RESULTS ?= results/protocol_b.jsonl
export PYTHON POLICY DATA RESULTS
# Empty means off: Python keeps compiled files, without which each of the many test processes compiles all imports.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
STAMP := .venv/.stamp
WORKERS := -n $(JOBS) --dist worksteal --durations 10
PYTEST := $(BIN)/python -m pytest $(WORKERS)
OLDEST := .venv-oldest/bin/python
# Plans and policies, hooks, losses, and every method, eager and compiled; without what starts processes.
OLDEST_TESTS := $(patsubst %,tests/test_%.py,compiled contract_replay hooks undisturbed layers schedule \
	methods losses typecheck sumix_step automix adautomix hiddenmix alignmix regmixup gridloss graphcut)
OLDEST_WHICH := not two_processes and not distributed and not torchvision_models

.PHONY: help setup demo test test-all test-oldest check pages docs docs-serve bench leaderboard lock clean

help:  ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null || grep '##' Makefile

setup: $(STAMP)  ## create .venv with the pinned packages and the mixwell command

$(STAMP): pyproject.toml requirements.lock
	@python=$$(scripts/python) && { $(BIN)/python -c '' 2>/dev/null || \
		{ rm -rf .venv && scripts/uv venv --quiet --python "$$python" .venv; }; }
	scripts/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	scripts/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup  ## train plain, CutMix and CutMix + SUMix on real digits; table, pictures and report in demo/
	$(BIN)/mixwell demo $(DEMO_ARGS)

test: setup  ## run the suite
	$(PYTEST) -m "not slow" $(ARGS)

test-all: setup  ## run the suite and the full product of the catalogue
	$(PYTEST) $(ARGS)

test-oldest: .venv-oldest/.stamp  ## run tests of the library with the oldest supported torch, in .venv-oldest
	PYTHONPATH=$(CURDIR)/src $(OLDEST) -m pytest $(WORKERS) -m "not slow" -k "$(OLDEST_WHICH)" $(OLDEST_TESTS) $(ARGS)

.venv-oldest/.stamp: requirements-oldest.lock
	@$(OLDEST) -c '' 2>/dev/null || { rm -rf .venv-oldest && scripts/uv venv --quiet --python 3.11 .venv-oldest; }
	scripts/uv pip sync --python $(OLDEST) --require-hashes requirements-oldest.lock
	@touch $@

check: setup  ## lint, format, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_architecture.py

pages: setup  ## write the generated tables, pages and pictures of docs/ and README.md
	$(BIN)/python docs/make_readme_table.py
	$(BIN)/python docs/make_recipes.py
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_strip.py
	$(BIN)/python docs/make_pages.py

docs: setup  ## build the documentation site in site/ (after `make pages`)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-serve: setup  ## show the documentation site at http://127.0.0.1:8000 while you edit
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: setup  ## time our policies (see benchmarks/)
	$(BIN)/python benchmarks/mixing.py $(ARGS)

leaderboard: setup  ## run Protocol B for POLICY (five seeds) and compare with the committed plain and CutMix runs
	@for job in $$(seq $(JOBS)); do \
		OMP_NUM_THREADS=1 $(BIN)/python benchmarks/protocol_b.py "$$POLICY" --data "$$DATA" --results "$$RESULTS" & \
		jobs="$$jobs $$!"; \
	done; for job in $$jobs; do wait $$job || exit 1; done
	$(BIN)/python benchmarks/protocol_table.py --results "$$RESULTS" --row "$$POLICY"

COMPILE := scripts/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command "make lock" --upgrade --quiet

lock:  ## pin the newest versions that pyproject.toml admits, and the oldest ones for test-oldest
	$(COMPILE) --all-extras --fork-strategy fewest --output-file requirements.lock
	printf '%s\n' 'pytest>=8.3' 'pytest-xdist>=3.6' 'safetensors>=0.4' 'torchvision>=0.22' | $(COMPILE) - --extra exact \
		--resolution lowest-direct --output-file requirements-oldest.lock

clean:  ## remove everything that make has made, results of runs excepted
	rm -rf .venv .venv-oldest .uv build dist site .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

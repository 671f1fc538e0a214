# `make demo` and `make test` need Python 3.11 or newer and nothing else: .ci/environment.py makes .venv, once.
PYTHON ?= $(firstword $(foreach each,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(each)),$(each))))
PY := .venv/bin/python
JOBS ?= 2
TESTS ?=

# One thread a worker: torch would start as many threads as there are cores in each of them.
test: export OMP_NUM_THREADS ?= 1
test check demo space space-check space-picture: export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: help demo test check docs bench clean venv space space-check space-picture

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv:
	@$(PYTHON) .ci/environment.py

demo: venv  ## merge the three shipped experts of SmolLM2-135M-Instruct and show what came out
	$(PY) -m hf_merge3h.demo

space: venv  ## open the Space: merge in the browser (GRADIO_SERVER_PORT and GRADIO_SERVER_NAME say where)
	cd spaces_app && ../$(PY) app.py

space-check: venv  ## build the Space as the Hub would, in a fresh environment, and tour it
	$(PY) .ci/space_check.py

space-picture: venv  ## make the README's picture of the Space again
	$(PY) .ci/space_picture.py

test: venv  ## run all tests (TESTS=tests/linalg for some, JOBS=1 for one process)
	$(PY) -m pytest $(if $(filter 1,$(JOBS)),,-n $(JOBS) --dist loadfile --no-loadscope-reorder) $(TESTS)

check: venv  ## lint, format, types, import contracts, doctests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m pytest -q --doctest-modules hf_merge3h --ignore-glob='hf_merge3h/metrics/*_*/*.py'  # those are loaded by evaluate

docs: venv  ## write what follows from the registry: the tables of README.md and docs/METHODS.md, the recipes' schema
	$(PY) -m hf_merge3h.catalogue
	$(PY) -m hf_merge3h.recipes.json_schema

bench: venv  ## run the benchmarks, one after the other
	@for script in benchmarks/*.py; do echo "== $$script"; $(PY) $$script || exit 1; done

clean:  ## remove what was built, .venv included
	rm -rf .venv .venv.lock build dist *.egg-info demo_output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

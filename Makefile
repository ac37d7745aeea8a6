# `make` alone lists the targets. Every target sets up what it needs in .venv; a second call finds it there.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

PY  := $(VENV)/bin/python
UV  := $(shell command -v uv 2>/dev/null)

# Tests run with one BLAS thread: the waiting threads of OpenBLAS spin, and on a busy machine two are slower than one.
test parity: export OPENBLAS_NUM_THREADS = 1
test parity: export OMP_NUM_THREADS = 1

.PHONY: help demo test parity lint bench cuda chapters docs constraints clean distclean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:  ## list these targets
	@echo "minidiff: diffusion models from scratch in NumPy"
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: $(VENV)/.has-run  ## train on handwritten digits, then draw some (a minute or two, no GPU)
	$(VENV)/bin/minidiff demo $(ARGS)
	@echo 'The command is $(VENV)/bin/minidiff; after ". $(VENV)/bin/activate" it is minidiff, as written above.'

# The unit tests run on all processors, file by file, the slow ones first; they leave nbval out, because loading it takes
# longer than many of them.
test: $(VENV)/.has-test  ## run all unit tests, then every chapter
	$(PY) -m pytest -p no:nbval -n auto --no-loadscope-reorder $(ARGS) tests
	$(PY) -m pytest --nbval -n auto $(ARGS) chapters

# Without PyTorch and diffusers these tests skip themselves, so their absence must be an error here.
parity: $(VENV)/.has-parity  ## compare ops and network with PyTorch, samplers with diffusers
	@$(PY) -c 'from importlib.metadata import version as v; print("PyTorch", v("torch"), "diffusers", v("diffusers"))'
	$(PY) -m pytest -p no:nbval $(ARGS) tests/parity

lint: $(VENV)/.has-lint  ## check style (ruff) and types (mypy)
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: $(VENV)/.has-parity  ## time training and sampling beside PyTorch's (ten minutes, an idle machine)
	$(PY) -m benchmarks.cpu $(ARGS)

cuda: $(VENV)/.has-cuda-check  ## compile the CUDA sources and run them on the processor (no GPU needed)
	$(PY) -m pytest -p no:nbval $(ARGS) tests/gpu

chapters: $(VENV)/.has-chapters  ## open the chapters in JupyterLab, at the preface
	$(VENV)/bin/jupyter lab --notebook-dir=chapters chapters/00_how_to_check.ipynb $(ARGS)

# -W: a warning is an error. The chapters are executed, two at a time.
docs: $(VENV)/.has-docs  ## build the site: chapters with figures, guides, API reference
	$(PY) -m sphinx -W --keep-going -q -j 2 -c docs $(ARGS) . docs/_build/html
	@echo 'Open docs/_build/html/index.html; it needs no network.'

# For maintainers; needs uv. PyTorch's CUDA packages are left out: which build of it is wanted differs by machine.
constraints:  ## write constraints.txt anew from pyproject.toml
	uv pip compile pyproject.toml --all-extras --universal --upgrade --no-header --no-annotate --quiet \
	  --output-file constraints.new
	{ echo '# The versions that were tested, for every extra; written by `make constraints`.'; \
	  grep -vE '^(nvidia-|cuda-bindings|cuda-toolkit|triton)' constraints.new; } > constraints.txt
	rm constraints.new

clean:  ## remove what tests, tools and builds leave behind, but no run
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache build dist docs/_build docs/_generated
	find minidiff tests chapters benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean  ## also remove the virtual environment
	[ ! -f $(VENV)/pyvenv.cfg ] || rm -rf $(VENV)

# One stamp for each extra that was installed. uv is used where it is found, since it is faster; else the pip that comes
# with Python. Neither compiles all the modules that it installs, which takes longer than to download them: Python compiles
# each when it is first imported, and keeps the result.
INSTALL = $(if $(UV),$(UV) pip install --quiet --python $(PY),$(PIP) install --quiet --no-compile)
PIP     = $(PY) -m pip --disable-pip-version-check
unexport PYTHONDONTWRITEBYTECODE

$(VENV)/.made:
	@$(PYTHON) -c 'pass' 2>/dev/null || { \
	  echo 'make: "$(PYTHON)" does not run: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), and minidiff needs Python 3.11 or newer: name one, as in" \
	       "make PYTHON=python3.12" >&2; exit 1; }
	@echo 'Setting up $(VENV) ...'
ifneq ($(UV),)
	@$(UV) venv --quiet --allow-existing --seed --python "$$(command -v $(PYTHON))" $(VENV)
else
	@$(PYTHON) -m venv $(VENV) || { \
	  echo 'make: $(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
endif
	@touch $@

$(VENV)/.has-run: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing what minidiff needs ...'
	@$(INSTALL) --constraint constraints.txt --editable .
	@touch $@

# PyTorch by pip even where uv is found: pip follows its own configuration to a CPU build, if one is named there.
$(VENV)/.has-parity: $(VENV)/.has-test
	@echo 'Installing PyTorch (on Linux some gigabytes, unless pip knows of a CPU build: see README.md) ...'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[parity]'
	@touch $@

$(VENV)/.has-cuda-check: $(VENV)/.has-test

$(VENV)/.has-%: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing what "$*" needs ...'
	@$(INSTALL) --constraint constraints.txt --editable '.[$*]'
	@touch $@

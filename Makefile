# Everything runs in .venv, made from requirements.lock. `make book` and `make test` are all a reader needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SITE := _build/html/index.html

# Large pages for large arrays: training spends a fifth of its time on page faults without them. Only glibc reads this.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

# Programs that XLA has compiled once here: pages, notebooks and tests run many of the same.
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/_build/programs
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0.2

.PHONY: book measured page check test models clean-models lab bench lint lock clean
.DEFAULT_GOAL := book

# The environment is complete only when its stamp is newer than what it was made from.
$(VENV)/locked: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	touch $@

$(VENV)/ready: $(VENV)/locked pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

measured: models  ## what the pages time on this machine, before anything else is computed beside it
	$(BIN)/python -m anatomy.measure

book: measured  ## the site, strictly: a warning is an error; anew, from cells that are executed only if they changed
	rm -rf _build/html _build/.doctrees
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book lies at file://$(CURDIR)/$(SITE)"

page: $(VENV)/ready  ## one page, as in `make page PAGE=vision`: executed if it changed, and built
	@test -f "book/$(PAGE).md" -o -f "book/$(PAGE).rst" || { echo "PAGE is '$(PAGE)'; allowed: the name of a file in book/, such as PAGE=vision"; exit 1; }
	mkdir -p _build/page
	printf 'format: jb-book\nroot: book/$(PAGE)\n' > _build/page/toc.yml
	$(BIN)/jupyter-book build . --toc $(CURDIR)/_build/page/toc.yml --path-output _build/page
	@echo "The page lies at file://$(CURDIR)/_build/page/_build/html/book/$(PAGE).html; links to other pages lead nowhere"

# Nothing is trained here: a test that asks for a model which is not there is skipped, and says so.
check: export ANATOMY_TRAIN := never
check: export ANATOMY_CACHE := $(CURDIR)/_build/check
check: lint  ## lint, types, and every test that needs neither a trained model nor the built book: minutes
	$(BIN)/python -m pytest -m "not book and not slow"

test: book  ## every test, the built site included
	$(BIN)/python -m pytest

models: $(VENV)/ready  ## the small models; each is trained once and goes on after a kill
	$(BIN)/python -m anatomy.train.recipes

clean-models: $(VENV)/ready  ## removes the cached small models, those of older code too
	$(BIN)/python -m anatomy.train.recipes --clean

lab: $(VENV)/ready  ## JupyterLab; a chapter opens as a notebook with a double click
	$(BIN)/jupytext-config --settings-file $(VENV)/etc/jupyter/labconfig/default_setting_overrides.json set-default-viewer markdown
	$(BIN)/jupyter lab --notebook-dir=book

# Compilation is one of the things measured.
bench: export JAX_ENABLE_COMPILATION_CACHE := false
bench: $(VENV)/ready  ## measurements side by side, written to _build/bench.json
	PYTHONPATH=tests $(BIN)/python -m benchmarks

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# uv resolves once for all systems and Python versions; environment.yml lists the very same pins.
lock:
	$(PYTHON) -m venv --clear _build/lock
	_build/lock/bin/pip install --quiet uv
	_build/lock/bin/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --output-file requirements.lock
	{ sed '/^    # pins/q' environment.yml; sed -n 's/^\([^# ].*==.*[^ ]\) *\\$$/      - "\1"/p' requirements.lock; } > _build/environment.yml
	mv _build/environment.yml environment.yml

clean:  ## all that was built; the environment stays
	rm -rf _build book/.ipynb_checkpoints

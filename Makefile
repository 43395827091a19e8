# sevlab: a few verbs. `make lab` and `make test` do all their own set-up.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
STAMP  := $(VENV)/.complete
SHARE  := $(VENV)/share/jupyter/lab/settings/overrides.d
VOILA  := $(VENV)/share/jupyter/voila/templates/sevlab
ARGS   ?=

DEBIAN := libvirt-clients-qemu python3-lxml python3-cryptography ovmf chromium swtpm
PYPI   := sev-snp-measure-0.0.9 sev-snp-measure-0.0.13 jupyter-repo2docker-2026.4.0
# Other front ends than this Python's JupyterLab, each with the widgets' own half in the browser.
FRONTS := jupyterlab-4.4.10 voila-0.5.13
LIVE   := ipywidgets==8.1.9 anywidget==0.11.0

export MPLBACKEND = agg
export PYTHONHASHSEED = 0

.PHONY: help setup lab test bench docs lint laws judges coverage clean

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# pip and setuptools are asked for by range, not upgraded: a second run needs no network.
$(STAMP): pyproject.toml widgets/sevlab.json $(wildcard widgets/voila/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sevlab needs Python 3.11 or newer, and $(PYTHON) is older; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check 'pip>=25.1' 'setuptools>=77.0.3'
	PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --no-build-isolation --editable '.[lab,test,dev,docs]'
	@mkdir -p $(SHARE) $(VOILA) && cp widgets/sevlab.json $(SHARE)/ && cp widgets/voila/* $(VOILA)/
	@touch $@

setup: $(STAMP)  ## the virtual environment in .venv, complete

lab: $(STAMP)  ## JupyterLab, opened on the course (ARGS="--no-browser --port 9999" passes through)
	@env -u MPLBACKEND $(PY) -m sevlab lab $(ARGS)

# Without a browser on all cores; with one alone, since those tests wait for pictures; then the notebooks' own stored text.
test: $(STAMP)  ## every test; ARGS="-k launch" passes through to pytest
ifneq ($(strip $(ARGS)),)
	$(PY) -m pytest $(ARGS)
else
	@set -x; failed=0; \
	$(PY) -m pytest -n logical --dist loadfile -m "not ui and not browser" || failed=1; \
	$(PY) -m pytest -m "ui or browser" || failed=1; \
	$(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=120 \
	  --nbval-sanitize-with=tests/nbval_sanitize.cfg -W default -p no:cacheprovider --ignore=notebooks/_build notebooks || failed=1; \
	exit $$failed
endif

bench: $(STAMP)  ## speed and memory beside their limits; JSON=FILE writes the figures
	JSON="$(JSON)" $(PY) tests/benchmarks/harness.py $(ARGS)

docs: $(STAMP)  ## the book, in notebooks/_build/html
	$(PY) -m sphinx -W --keep-going -b html -c notebooks/.book -d notebooks/_build/doctrees notebooks notebooks/_build/html

lint: $(STAMP)  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m mypy

laws: $(STAMP)  ## the property tests, longer and with fresh examples
	HYPOTHESIS_PROFILE=laws $(PY) -m pytest -m hypothesis $(ARGS)

coverage: $(STAMP)  ## write notebooks/reference/coverage.md from the tables
	$(PY) -m sevlab.cli.coverage

# Foreign tools whose verdict the tests ask for. What cannot be had prints `absent`,
# which is a failure only under SEVLAB_REQUIRE_TOOLS=1.
judges:  ## fetch the foreign tools that judge sevlab
	@missing=; for package in $(DEBIAN); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	    || echo "apt-get could not install:$$missing" >&2; \
	fi
	@for judge in $(PYPI); do folder=.judges/$$judge; tool=$${judge%-*}; \
	  test -x $$folder/bin/$$tool || { $(PYTHON) -m venv $$folder && \
	    $$folder/bin/python -m pip install --quiet --disable-pip-version-check "$$tool==$${judge##*-}"; } \
	    || echo "pip could not install $$judge" >&2; \
	done
	@for judge in $(FRONTS); do folder=.judges/$$judge; \
	  $$folder/bin/python -c "import $${judge%-*}, anywidget" 2>/dev/null || { $(PYTHON) -m venv $$folder && \
	    $$folder/bin/python -m pip install --quiet --disable-pip-version-check "$${judge%-*}==$${judge##*-}" $(LIVE); } \
	    || echo "pip could not install $$judge" >&2; \
	done
	@$(PYTHON) tests/widgets/axe.py >/dev/null || echo "npm could not fetch axe-core" >&2
	@absent=0; for package in $(DEBIAN); do \
	  if dpkg -s $$package >/dev/null 2>&1; then answer=ok; else answer=absent; absent=1; fi; printf '%-32s%s\n' $$package $$answer; done; \
	for judge in $(PYPI); do \
	  if [ -x .judges/$$judge/bin/$${judge%-*} ]; then answer=ok; else answer=absent; absent=1; fi; \
	  printf '%-32s%s\n' $$judge $$answer; done; \
	for judge in $(FRONTS); do \
	  if .judges/$$judge/bin/python -c "import $${judge%-*}, anywidget" 2>/dev/null; then answer=ok; else answer=absent; absent=1; fi; \
	  printf '%-32s%s\n' $$judge $$answer; done; \
	if $(PYTHON) tests/widgets/axe.py 2>/dev/null; then answer=ok; else answer=absent; absent=1; fi; printf '%-32s%s\n' axe-core $$answer; \
	if [ $$absent = 1 ] && [ "$$SEVLAB_REQUIRE_TOOLS" = 1 ]; then echo "a judge is absent and SEVLAB_REQUIRE_TOOLS=1" >&2; exit 1; fi

clean:  ## remove what the other targets made, but for the judges
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis notebooks/_build

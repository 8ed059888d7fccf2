# Every target sets up .venv by itself; a second run starts at once.
#   make demo   train on the offline sample and show what was learned     make test   all checks, as CI runs them
#   make docs   build the site into site/                                 make bench  benchmarks (see benchmarks/README.md)
#   make test-slow, test-serve, test-trackers, test-engines, test-torchrec, test-cuda, test-oldest, test-newest, test-wheel   what takes long; a GPU; the ends of the range of versions; the wheel

PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo-output
export MPLBACKEND := Agg
# MovieLens for the tutorials, where a copy lies beside the repository; else they download it or use the sample.
ifneq ($(wildcard ../shared/data),)
export COLLABKIT_DATA ?= $(abspath ../shared/data)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Bytecode is written for what is imported, once: pip compiles none (--no-compile), and without any each process would
# compile torch and pandas anew, which takes it ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-cuda test-serve test-trackers test-engines test-torchrec test-oldest test-newest test-wheel setup lint unit doctest notebooks docs bench clean

demo: setup
	$(BIN)/collabkit demo --out $(OUT) $(if $(DATA),--data $(DATA))

test: lint unit
	@$(MAKE) --no-print-directory --output-sync=target -j 2 doctest docs
	@$(MAKE) --no-print-directory notebooks
	@echo "all checks passed"

# Hours: kills, threads, writers at one time, 5,000 tables of all types, and broken lines that the suite must see.
test-slow: export OMP_NUM_THREADS := 1
test-slow: setup
	$(BIN)/python -m pytest -n 2 --slow -m slow tests
	$(BIN)/python -m pytest --rounds 5000 -o timeout=7200 tests/test_fuzz.py
	$(BIN)/python tests/mutations.py

# Every model, and what a GPU could break beside, trained on one; `make test` trains on the CPU wherever it runs.
test-cuda: setup
	$(BIN)/python -m pytest --cuda tests/test_cuda.py tests/test_contract.py tests/contributed

# The service under load, new artefacts and ends under 32 clients, generated bad requests, and the page in Chromium, if any.
test-serve: export OMP_NUM_THREADS := 1
test-serve: setup
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[service-checks]'
	$(BIN)/python -m pytest --slow tests/test_serve.py tests/test_serve_load.py
	$(BIN)/python tests/bad_requests.py 10000
	$(BIN)/python -m benchmarks service

# `Track` with each of the four trackers, offline, in an environment of its own: they are large.
test-trackers:
	$(PYTHON) -m venv .venv-trackers
	.venv-trackers/bin/python -m pip install -c constraints.txt torch
	.venv-trackers/bin/python -m pip install -e '.[dev,track]'
	.venv-trackers/bin/python -m pytest tests/test_trackers.py

# Tables in shards by TorchRec, which wants one version of torch: in an environment of its own.
test-torchrec: export OMP_NUM_THREADS := 1
test-torchrec:
	$(PYTHON) -m venv .venv-torchrec
	.venv-torchrec/bin/python -m pip install --no-compile -r requirements-torchrec.txt
	.venv-torchrec/bin/python -m pip install --no-compile --no-deps torchrec==1.8.0
	.venv-torchrec/bin/python -m pip install --no-compile -c constraints.txt -e '.[dev]'
	.venv-torchrec/bin/python -m pytest tests/test_torchrec.py

# Ray and Spark, in an environment of their own; Spark needs Java 17 or later.
test-engines: export OMP_NUM_THREADS := 1
test-engines:
	$(PYTHON) -m venv .venv-engines
	.venv-engines/bin/python -m pip install -c constraints.txt torch
	.venv-engines/bin/python -m pip install -c constraints.txt -e '.[dev,ray,spark]'
	.venv-engines/bin/python -m pytest --durations=10 tests/test_engines.py tests/test_ray.py tests/test_spark.py

# The oldest versions that setup.cfg allows, and the newest that there are, each in an environment of its own.
test-oldest test-newest: export OMP_NUM_THREADS := 1

test-oldest:
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) tests/oldest.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install -c .venv-oldest/constraints.txt torch
	.venv-oldest/bin/python -m pip install -c .venv-oldest/constraints.txt -e '.[dev,docs]'
	.venv-oldest/bin/python -m pytest -n 2 tests

test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --upgrade -e '.[dev,docs]'
	.venv-newest/bin/python -m pytest -n 2 tests

# The wheel in an environment without anything else: the torch that is there stays, types are found, the demo runs.
test-wheel: WHEEL := $(abspath .venv-wheel)
test-wheel:
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --no-compile -c constraints.txt torch
	$(WHEEL)/bin/python -m pip freeze | grep '^torch==' > $(WHEEL)/keep.txt
	$(WHEEL)/bin/python -m pip wheel --no-deps --wheel-dir $(WHEEL)/dist .
	$(WHEEL)/bin/python -m pip install -c $(WHEEL)/keep.txt $(WHEEL)/dist/*.whl
	$(WHEEL)/bin/python -m pip freeze | grep '^torch==' | diff - $(WHEEL)/keep.txt
	cd $(WHEEL) && bin/collabkit demo --out demo
	$(WHEEL)/bin/python -m pip install mypy pandas-stubs
	cd $(WHEEL) && bin/mypy --strict $(abspath tests)/typed_program.py

setup: .venv/ready

.venv/ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "collabkit needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0])'
	@echo "[1/3] making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@echo "[2/3] installing torch (large, once)"
	@$(BIN)/python -m pip install --no-compile -c constraints.txt torch
	@echo "[3/3] installing collabkit and its tools"
	@$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[dev,docs]'
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Two processes of one thread each: more threads than cores would only wait for each other.
unit notebooks: export OMP_NUM_THREADS := 1

unit: setup
	$(BIN)/python -m pytest -n 2 tests

doctest: setup
	$(BIN)/python -m pytest --doctest-modules collabkit --ignore=collabkit/all.py -W ignore

notebooks: setup
	$(BIN)/nbdev-test --n-workers 2

# The pages come from docs/hooks.py, the notebooks of nbs/api/ among them. The variable silences a notice about MkDocs 2.
docs: export NO_MKDOCS_2_WARNING := true

docs: setup
	$(BIN)/python -m mkdocs build --strict --config-file docs/mkdocs.yml

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-trackers .venv-engines .venv-torchrec .venv-oldest .venv-newest .venv-wheel site _proc _docs demo-output build *.egg-info

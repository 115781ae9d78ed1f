# `make demo` and `make test` make their own virtual environment; nothing else has to be installed but Python 3.11+.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
# Empty, whatever the caller has: stages and tests start hundreds of processes, each of which would compile the code anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test coverage check venv no-git clean

help:          ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*##/  /'

demo: venv no-git     ## draw the demo data, build every stage, print the scores, predict a folder
	lrcn synthesize
	lrcn select demo
	dvc repro --quiet report@demo
	lrcn results artifacts/demo
	lrcn predict media/demo/clips/sit_down media/demo/clips/stand_up \
	  --model artifacts/demo/trainings/clip-rgb-fold1-seed0/model --out predictions
	@echo "Report: artifacts/demo/report.html   Predictions: predictions/report.html   Runs: .venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db, then http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"

# DVC wants a git repository, unless it is told that there is none (an unpacked archive, many CI systems).
no-git: venv
	@[ -e .git ] || dvc config --local core.no_scm true

test: check    ## style, types, all tests
	pytest -n auto --dist loadfile --no-loadscope-reorder -m "slow or not slow" --durations=15 $(COVERAGE)

# Counting lines makes the tests a fifth slower.
coverage: COVERAGE := --cov=pipeline --cov-fail-under=85
coverage: test ## the same, with the lines that no test runs

check: venv    ## style and types only
	ruff format --check .
	ruff check .
	mypy

venv: $(BIN)/.ready   ## the virtual environment, from requirements.lock

$(BIN)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	# Compiling all packages takes longer than installing them; Python compiles what is imported, once.
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(BIN)/.ready

clean:         ## what the stages made; media and the tracking database stay
	rm -rf artifacts predictions

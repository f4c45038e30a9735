# make run       start the service on http://127.0.0.1:8081
# make test      run every test, the linter and the type checker
# make failover  kill the worker that serves a thousand times, print what callers notice
# make faults    fail each system call of a worker, print what came of it; takes an hour
# make bench     compare with other servers, write docs/benchmarks.md; takes 15 minutes
# make clean     remove what the two have made, but not the service's data

PYTHON ?= python3
VENV := .venv
SOURCES := setup.py pyproject.toml README.md $(shell find src -name '*.py')

.PHONY: run test failover faults bench clean

run: $(VENV)/installed
	$(VENV)/bin/twistd -n pexservice

test: $(VENV)/tox
	$(VENV)/bin/tox run $(TOX_ARGS)

failover: $(VENV)/tested
	$(VENV)/bin/python -m tests.functional.failover $(KILLS)

faults: $(VENV)/tested
	$(VENV)/bin/python -m tests.functional.faults $(FAULTS_ARGS)

bench: $(VENV)/benched
	$(VENV)/bin/python -m bench $(PEERS) $(BENCH_ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python $(SOURCES)
	$(VENV)/bin/pip install --quiet .
	touch $@

$(VENV)/tested: $(VENV)/bin/python $(SOURCES)
	$(VENV)/bin/pip install --quiet '.[test]'
	touch $@

$(VENV)/benched: $(VENV)/bin/python $(SOURCES)
	$(VENV)/bin/pip install --quiet '.[test,bench]'
	touch $@

$(VENV)/tox: $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet 'tox>=4.20'
	touch $@

clean:
	rm -rf $(VENV) .tox build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name '*.egg-info' -prune -exec rm -rf {} +

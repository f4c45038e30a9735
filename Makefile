# `make` prints the targets: the text after ## describes a target, ##@ begins a group.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --quiet --disable-pip-version-check
SEEDS ?= 20000
MINUTES ?= 60
KILL_EVERY ?= 60
SOURCES := setup.py pyproject.toml README.md $(shell find src -regex '.*\.\(py\|html\|css\|js\|json\|md\|description\)')

.DEFAULT_GOAL := help
.PHONY: help run test test-all quick bench chart deb clean-deb system image-test api-docs completions
.PHONY: screenshots moving-picture docs clean release
.PHONY: cluster cluster-faults
.PHONY: exactly-once failover power-cuts damage faults histories turns simulate
.PHONY: model attacks resources soak evidence seams

help: ## print this list
	@awk 'BEGIN { FS = ":.*## " } \
	/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

##@ Use it

run: $(VENV)/installed ## start it on http://127.0.0.1:8081, or RUN_ARGS="--listen tcp:8082:interface=127.0.0.1"
	@echo 'Starting the service, by default on http://127.0.0.1:8081; a browser shows its live page.'
	@echo 'Ctrl-C stops it.'
	$(VENV)/bin/pexservice $(RUN_ARGS)

cluster: $(VENV)/tested ## start three members of etcd (Debian's etcd-server) and three nodes
	$(VENV)/bin/python -m tests.labs.cluster.playground

##@ Change it

quick: $(VENV)/tox ## run linters, type checker and unit tests on the tree, in two minutes
	$(VENV)/bin/tox run -e quick

test: $(VENV)/tox ## run linters, type checker and tests on the wheel, in about 4 minutes
	$(VENV)/bin/tox run $(TOX_ARGS)

# The long forms search for rare orders of events, which do not depend on the versions of
# libraries.  So they run only with the newest versions.  If the variable CI is set, a
# skipped test fails; .ci/run sets it, and installs what all tests need on Debian 13.
test-all: $(VENV)/tox ## run everything: long forms, fault injection, Debian's versions, make system; root
	$(VENV)/bin/tox run -e lint,types,docs,api,sources
	$(VENV)/bin/tox run -e newest -- --long
	$(VENV)/bin/tox run -e debian13
	$(MAKE) system

api-docs: $(VENV)/tested ## write docs/http-api.md from the OpenAPI document
	$(VENV)/bin/python -m tests.support.http_reference

completions: $(VENV)/tested ## write the completions of pexctl for bash and zsh
	$(VENV)/bin/python -m tests.support.completions

screenshots: $(VENV)/browsing ## take the pictures in docs/page/, with Debian's chromium
	$(VENV)/bin/python -m tests.support.screenshots

docs: $(VENV)/tox ## build a searchable site of docs/, in build/docs/index.html
	$(VENV)/bin/tox run -e docs

# The load and the pause are real, so the machine should have nothing else to do.
moving-picture: $(VENV)/browsing ## record docs/page/kill.webp, with Debian's chromium
	$(VENV)/bin/python -m tests.support.moving_picture

clean: ## remove everything that these targets made, except the service's data
	rm -rf $(VENV) .tox build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name '*.egg-info' -prune -exec rm -rf {} +

##@ Measure it

bench: $(VENV)/benched ## compare with other servers, and write bench/results.md; 20 minutes
	$(VENV)/bin/python -m bench $(PEERS) $(BENCH_ARGS)

chart: $(VENV)/benched ## draw the chart of the comparison from bench/results.md
	$(VENV)/bin/python -m bench.chart

##@ Package it

# The package is built from a copy, so that the tree stays unchanged.  tests/nets is left
# out, because it contains binary files.
deb: ## build build/deb/pexservice_VERSION_all.deb, on Debian 13
	rm -rf build/deb
	mkdir -p build/deb/pexservice
	git ls-files ':!tests/nets' | tar cf - -T - | tar xf - -C build/deb/pexservice
	cd build/deb/pexservice && PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -us -uc

clean-deb: ## build it in a Debian 13 that has only the declared build dependencies; root
	.ci/deb

release: $(VENV)/bin/python ## build wheel, sdist and .deb with checksums into build/release
	$(PIP) install 'build>=1'
	PYTHON=$(CURDIR)/$(VENV)/bin/python .ci/release

system: clean-deb build/system/base.tar $(VENV)/tested ## test the package on a machine that boots systemd; root
	$(VENV)/bin/pytest --system tests/packaging/system

# The image has all dependencies of the package, so that the machine needs no network.
build/system/base.tar: debian/control | clean-deb
	mkdir -p build/system
	mmdebstrap --variant=minbase --include=autopkgtest,curl,dbus,dpkg-repack,logrotate,openssl,systemd-sysv,\
	"$$(dpkg-deb --field build/deb/pexservice_*.deb Depends | \
	sed 's/([^)]*)//g; s/|[^,]*//g; s/:any//g; s/ //g')" trixie $@

image-test: $(VENV)/tested ## build the container image from Debian alone and test it; root
	$(VENV)/bin/pytest --long tests/packaging/test_image.py

##@ Try to break it: fault-injection tests in their long form

failover: $(VENV)/tested ## kill the active worker a thousand times under load, and print the pauses
	$(VENV)/bin/python -m tests.labs.failover.lab $(KILLS)

# The test runs in its own mount namespace.  Otherwise a container that starts during the
# test would keep the volume mounted after the power cut.
power-cuts: $(VENV)/tested ## cut the power under load a thousand times; root, 15 minutes
	unshare --mount $(VENV)/bin/python -m tests.labs.power_cuts.lab $(CUTS)

damage: $(VENV)/tested ## damage a store 10,000 times: it must be refused, or return the same state
	$(VENV)/bin/python -m tests.labs.damage.lab $(DAMAGES)

faults: $(VENV)/tested ## make every system call fail once, and for ever; root, 40 minutes
	$(VENV)/bin/python -m tests.labs.faults.lab

histories: $(VENV)/tested ## kill a worker 200 times under load, and check the clients' whole records
	$(VENV)/bin/python -m tests.labs.histories.lab $(KILLS)

exactly-once: $(VENV)/tested ## make steps with the Python client during kills, for three times 5 minutes
	$(VENV)/bin/python -m tests.labs.client.lab $(SECONDS)

seams: $(VENV)/tested ## make 10,000 changes to processes, files and store under load; 40 minutes
	$(VENV)/bin/python -m tests.labs.seams.lab $(OPERATIONS)

cluster-faults: $(VENV)/tested ## make everything fail on three members of etcd and three nodes, five times
	$(VENV)/bin/python -m tests.labs.cluster.lab $(ROUNDS)

turns: $(VENV)/tested ## measure how three nodes on three members of etcd share a cursor
	$(VENV)/bin/python -m tests.labs.cluster.turns

simulate: $(VENV)/tested ## simulate 20,000 runs of committer and supervisor, with every failure
	$(VENV)/bin/python -m tests.labs.simulation.lab 1 $(SEEDS)

model: $(VENV)/tested ## compare a thousand generated conversations with a model
	$(VENV)/bin/python -m tests.labs.model.lab $(EXAMPLES)

attacks: $(VENV)/tested ## send hundreds of malformed requests, and send requests slowly
	$(VENV)/bin/python -m tests.labs.attacks.lab

resources: $(VENV)/tested ## fill the disk, use all memory, change the clock, make the disk hang; root
	$(VENV)/bin/python -m tests.labs.resources.lab

soak: $(VENV)/tested ## load it for MINUTES=60, kill every KILL_EVERY=60 seconds, show what grows
	$(VENV)/bin/python -m tests.labs.soak.lab $(MINUTES) $(KILL_EVERY)

evidence: $(VENV)/tested ## put the results of these tests into docs/reliability.md
	$(VENV)/bin/python -m tests.support.evidence

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python $(SOURCES)
	@echo 'Installing into $(VENV); the first time takes about a minute.'
	@$(PIP) install .
	touch $@

$(VENV)/tested: $(VENV)/bin/python $(SOURCES)
	$(PIP) install '.[test]'
	touch $@

$(VENV)/browsing: $(VENV)/bin/python $(SOURCES)
	$(PIP) install '.[test,browser]'
	touch $@

$(VENV)/benched: $(VENV)/bin/python $(SOURCES)
	$(PIP) install '.[test,bench]'
	touch $@

$(VENV)/tox: $(VENV)/bin/python
	$(PIP) install 'tox>=4.20'
	touch $@

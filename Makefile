# make run         start the service on http://127.0.0.1:8081
# make test        run every test, the linter and the type checker
# make bench       compare with other servers, write docs/benchmarks.md; takes 15 minutes
# make deb         build/deb/pexservice_VERSION_all.deb, on Debian 13
# make system      check the package, and install it on a machine that boots systemd; root
# make cluster     three etcd (Debian's etcd-server) and three nodes to play with
# make api-docs    write docs/http-api.md from the OpenAPI document
# make screenshots the pictures in docs/page/; takes Debian's chromium
# make image-test  build the container image from Debian alone and try it; root
# make clean       remove what these have made, but not the service's data
#
# The laboratories, in their long form; make test runs a short one of each.
# Those for which it says so take root.
#
# make failover    kill the worker that serves a thousand times, print what callers notice
# make power-cuts  cut the power under load a thousand times; root, 15 minutes
# make faults      have every system call fail once, and for ever; root, 40 minutes
# make histories   200 kills under clients whose whole record is checked
# make cluster-faults  all that can happen to three etcd and three nodes, five times over
# make simulate    20,000 simulated runs of committer and supervisor, with every failure
# make model       a thousand generated conversations with the daemon, against a model
# make attacks     malformed requests by the hundred, and slow clients
# make resources   a full disk, no memory, a clock that jumps, a disk that hangs; root
# make soak        an hour of mixed load with kills, see what grows; MINUTES=60 KILL_EVERY=60
# make evidence    put what they found into docs/reliability.md

PYTHON ?= python3
VENV := .venv
SEEDS ?= 20000
MINUTES ?= 60
KILL_EVERY ?= 60
SOURCES := setup.py pyproject.toml README.md $(shell find src -regex '.*\.\(py\|html\|css\|js\)')

.PHONY: run test bench deb system image-test api-docs screenshots clean
.PHONY: cluster cluster-faults
.PHONY: failover power-cuts faults histories simulate model attacks resources soak evidence

run: $(VENV)/installed
	$(VENV)/bin/twistd -n pexservice

test: $(VENV)/tox
	$(VENV)/bin/tox run $(TOX_ARGS)

cluster: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.cluster.playground

cluster-faults: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.cluster.lab $(ROUNDS)

failover: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.failover.lab $(KILLS)

# In a mount namespace of its own: one that is made meanwhile, by a container say, would
# keep a volume mounted that was cut off.
power-cuts: $(VENV)/tested
	unshare --mount $(VENV)/bin/python -m tests.labs.power_cuts.lab $(CUTS)

faults: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.faults.lab

histories: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.histories.lab $(KILLS)

simulate: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.simulation.lab 1 $(SEEDS)

model: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.model.lab $(EXAMPLES)

attacks: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.attacks.lab

resources: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.resources.lab

soak: $(VENV)/tested
	$(VENV)/bin/python -m tests.labs.soak.lab $(MINUTES) $(KILL_EVERY)

bench: $(VENV)/benched
	$(VENV)/bin/python -m bench $(PEERS) $(BENCH_ARGS)

# From a copy, so that the tree stays as it is.
deb:
	rm -rf build/deb
	mkdir -p build/deb/pexservice
	git ls-files | tar cf - -T - | tar xf - -C build/deb/pexservice
	cd build/deb/pexservice && PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -us -uc

system: deb build/system/base.tar $(VENV)/tested
	$(VENV)/bin/pytest --system tests/packaging/system

# With what the package depends on, so that the machine needs no network.
build/system/base.tar: debian/control | deb
	mkdir -p build/system
	mmdebstrap --variant=minbase --include=autopkgtest,curl,dbus,dpkg-repack,systemd-sysv,\
	"$$(dpkg-deb --field build/deb/pexservice_*.deb Depends | \
	sed 's/([^)]*)//g; s/|[^,]*//g; s/:any//g; s/ //g')" trixie $@

api-docs: $(VENV)/tested
	$(VENV)/bin/python -m tests.support.http_reference

screenshots: $(VENV)/browsing
	$(VENV)/bin/python -m tests.support.screenshots

image-test: $(VENV)/tested
	$(VENV)/bin/pytest tests/packaging/test_image.py

evidence: $(VENV)/tested
	$(VENV)/bin/python -m tests.support.evidence

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python $(SOURCES)
	$(VENV)/bin/pip install --quiet .
	touch $@

$(VENV)/tested: $(VENV)/bin/python $(SOURCES)
	$(VENV)/bin/pip install --quiet '.[test]'
	touch $@

$(VENV)/browsing: $(VENV)/bin/python $(SOURCES)
	$(VENV)/bin/pip install --quiet '.[test,browser]'
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

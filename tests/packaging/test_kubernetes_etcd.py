"""
The manifests of C{deploy/kubernetes/etcd}: their schemas, and the options of the service.
"""

from __future__ import annotations

import signal
from contextlib import closing, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml

from pexservice.cli.twistd import ServiceOptions
from pexservice.stores.etcd.address import parse
from tests.packaging.test_kubernetes import CONTAINER, PLACE, POD, _run, assert_valid
from tests.support.daemon import wait_until
from tests.support.etcd import Member, cluster, without_space

pytestmark = [pytest.mark.needs("kubectl"), pytest.mark.once]

Manifests = list[dict[str, Any]]


@pytest.fixture(scope="module")
def built() -> Manifests:
    """
    Return the manifests that C{kubectl kustomize} builds.
    """
    return [*yaml.safe_load_all(_run("kubectl", "kustomize", str(PLACE / "etcd")))]


def _one(built: Manifests, kind: str) -> dict[str, Any]:
    (spec,) = (manifest["spec"] for manifest in built if manifest["kind"] == kind)
    return dict(spec)


def _container(built: Manifests, kind: str) -> dict[str, Any]:
    (container,) = _one(built, kind)["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.needs("kubernetes-validate")
def test_every_manifest_is_valid_by_its_schema(built: Manifests) -> None:
    for manifest in built:
        assert_valid(manifest)


def test_service_accepts_its_arguments_and_they_name_each_etcd(built: Manifests) -> None:
    options = ServiceOptions()
    options.parseOptions(_container(built, "Deployment")["args"])
    assert options.supervision().standby == 0
    etcd = _one(built, "StatefulSet")
    names = [f"pexservice-etcd-{number}" for number in range(etcd["replicas"])]
    assert etcd["serviceName"] == "pexservice-etcd"
    assert parse(options.settings().store).endpoints == tuple(
        f"http://{name}.pexservice-etcd:2379" for name in names
    )
    (initial,) = (
        argument
        for argument in _container(built, "StatefulSet")["args"]
        if argument.startswith("--initial-cluster=")
    )
    assert initial.removeprefix("--initial-cluster=").split(",") == [
        f"{name}=http://{name}.pexservice-etcd:2380" for name in names
    ]


def test_three_nodes_on_different_machines_tolerate_one_missing(built: Manifests) -> None:
    nodes = _one(built, "Deployment")
    assert nodes["replicas"] == 3
    pod = nodes["template"]["spec"]
    assert {
        constraint["topologyKey"] for constraint in pod["topologySpreadConstraints"]
    } == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    budgets = [
        manifest["spec"] for manifest in built if manifest["kind"] == "PodDisruptionBudget"
    ]
    assert [budget["maxUnavailable"] for budget in budgets] == [1, 1]
    assert {budget["unhealthyPodEvictionPolicy"] for budget in budgets} == {"AlwaysAllow"}


def test_network_policies_admit_backup_and_prometheus_to_etcd(built: Manifests) -> None:
    (policy,) = (
        manifest["spec"]
        for manifest in built
        if manifest["kind"] == "NetworkPolicy"
        and manifest["metadata"]["name"] == "pexservice-etcd"
    )
    allowed = {
        source["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
        for rule in policy["ingress"]
        for source in rule["from"]
        if "podSelector" in source
    }
    job = _one(built, "CronJob")["jobTemplate"]["spec"]["template"]
    assert job["metadata"]["labels"]["app.kubernetes.io/name"] in allowed
    etcd = _container(built, "StatefulSet")
    ports = {port["name"]: port["containerPort"] for port in etcd["ports"]}
    named = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert named <= {*ports, *ports.values()}
    assert "--listen-metrics-urls=http://0.0.0.0:2381" in etcd["args"]
    assert ports["metrics"] == 2381


@pytest.mark.needs("etcd")
def test_real_etcd_answers_the_probes_in_each_state(
    built: Manifests, tmp_path: Path
) -> None:
    """
    Neither an alarm nor a lost quorum restarts a member; without a quorum, it is not ready.
    """
    etcd = _container(built, "StatefulSet")
    for probe in ("startupProbe", "livenessProbe"):
        assert etcd[probe]["httpGet"]["path"] == "/livez"
    assert etcd["readinessProbe"]["httpGet"]["path"] == "/readyz"
    options = [
        argument
        for argument in etcd["args"]
        if argument.startswith(("--auto", "--snapshot"))
    ]
    with cluster(tmp_path, 2, *options) as (first, second):
        _expect(first, alive=200, ready=200)
        with without_space(first):
            _expect(first, alive=200, ready=200)
        second.signal(signal.SIGSTOP)
        _expect(first, alive=200, ready=503)
        second.signal(signal.SIGCONT)


def _expect(member: Member, *, alive: int, ready: int) -> None:
    for path, status in (("/livez", alive), ("/readyz", ready)):
        wait_until(partial(_answers, member, path, status), f"{path} has {status}")


def _answers(member: Member, path: str, status: int) -> bool:
    host = member.url.removeprefix("http://")
    with closing(HTTPConnection(host, timeout=10)) as connection, suppress(TimeoutError):
        connection.request("GET", path)
        return connection.getresponse().status == status
    return False


def test_nodes_have_the_restrictions_and_probes_of_the_single_node(
    built: Manifests,
) -> None:
    ours = _container(built, "Deployment")
    for key in ("securityContext", "readinessProbe", "livenessProbe"):
        assert ours[key] == CONTAINER[key]
    pod = _one(built, "Deployment")["template"]["spec"]
    assert pod["securityContext"].items() <= POD["securityContext"].items()

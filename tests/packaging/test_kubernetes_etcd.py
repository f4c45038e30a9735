"""
The manifests of C{deploy/kubernetes/etcd} say what Kubernetes and the service understand.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pexservice.cli.twistd import ServiceOptions
from pexservice.stores.etcd.address import parse
from tests.packaging.test_kubernetes import PLACE, POD, _run, assert_valid

pytestmark = [pytest.mark.needs("kustomize"), pytest.mark.once]

Manifests = list[dict[str, Any]]


@pytest.fixture(scope="module")
def built() -> Manifests:
    """
    Return the manifests as kustomize puts them together.
    """
    return [*yaml.safe_load_all(_run("kustomize", "build", str(PLACE / "etcd")))]


def _one(built: Manifests, kind: str) -> dict[str, Any]:
    (found,) = (each["spec"] for each in built if each["kind"] == kind)
    return dict(found)


@pytest.mark.needs("kubernetes-validate")
def test_the_schemas_know_all_of_it(built: Manifests) -> None:
    """
    Every manifest is valid, as those of the single node are.
    """
    for manifest in built:
        assert_valid(manifest)


def test_nodes_find_etcd(built: Manifests) -> None:
    """
    The service takes its arguments, and they name each etcd that there is.
    """
    (container,) = _one(built, "Deployment")["template"]["spec"]["containers"]
    options = ServiceOptions()
    options.parseOptions(container["args"])
    assert options.supervision().standby == 0
    etcd = _one(built, "StatefulSet")
    names = [f"pexservice-etcd-{number}" for number in range(etcd["replicas"])]
    assert etcd["serviceName"] == "pexservice-etcd"
    assert parse(options.settings().store).endpoints == tuple(
        f"http://{name}.pexservice-etcd:2379" for name in names
    )
    (initial,) = (
        each
        for each in etcd["template"]["spec"]["containers"][0]["args"]
        if each.startswith("--initial-cluster=")
    )
    assert initial.removeprefix("--initial-cluster=").split(",") == [
        f"{name}=http://{name}.pexservice-etcd:2380" for name in names
    ]


def test_one_may_be_missing(built: Manifests) -> None:
    """
    There are three nodes on different machines, and one at a time may be taken away.
    """
    nodes = _one(built, "Deployment")
    assert nodes["replicas"] == 3
    pod = nodes["template"]["spec"]
    assert {each["topologyKey"] for each in pod["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    budgets = [each["spec"] for each in built if each["kind"] == "PodDisruptionBudget"]
    assert [each["maxUnavailable"] for each in budgets] == [1, 1]


def test_as_careful_as_the_single_one(built: Manifests) -> None:
    """
    The nodes run as the single node does, and have the same probes.
    """
    pod = _one(built, "Deployment")["template"]["spec"]
    (ours,), (single,) = pod["containers"], POD["containers"]
    assert ours["securityContext"] == single["securityContext"]
    assert ours["readinessProbe"] == single["readinessProbe"]
    assert ours["livenessProbe"] == single["livenessProbe"]
    assert pod["securityContext"].items() <= POD["securityContext"].items()

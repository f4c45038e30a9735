"""
The manifests of C{deploy/kubernetes}: their schemas, their security, and the image.
"""

from __future__ import annotations

import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from pexservice.cli.pexctl import PARSER
from pexservice.web.endpoints import DEFAULT_TABLE

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "deploy" / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()

#: The first release in which ReadWriteOncePod is stable.
OLDEST = "1.29"

_KUSTOMIZATION = yaml.safe_load((PLACE / "kustomization.yaml").read_text())

MANIFESTS: dict[str, Any] = {
    name: yaml.safe_load((PLACE / name).read_text()) for name in _KUSTOMIZATION["resources"]
}

_SET = MANIFESTS["statefulset.yaml"]["spec"]
POD = _SET["template"]["spec"]
(CONTAINER,) = POD["containers"]


def assert_valid(manifest: Any) -> None:
    """
    Check a manifest against the schemas of the oldest and the newest supported release.

    The schema of a C{spec} must also refuse unknown fields.
    """
    from kubernetes_validate import (  # type: ignore[import-untyped]
        ValidationError,
        latest_version,
        validate,
    )

    for release in (OLDEST, latest_version()):
        validate(manifest, release, strict=True)
        if "spec" in manifest:
            unknown = {**manifest, "spec": {**manifest["spec"], "x": 1}}
            with pytest.raises(ValidationError):
                validate(unknown, release, strict=True)


@pytest.mark.needs("kubernetes-validate")
@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_is_valid_by_its_schema(name: str) -> None:
    assert_valid(MANIFESTS[name])


def test_every_manifest_file_is_applied() -> None:
    there = {file.name for file in PLACE.glob("*.yaml")}
    assert there == {"kustomization.yaml", *MANIFESTS}


def test_pod_meets_the_restricted_pod_security_standard() -> None:
    """
    The pod also has a read-only root file system, and no token for the cluster.
    """
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & POD.keys()
    assert POD["automountServiceAccountToken"] is False
    pod = POD["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert "volumes" not in POD


def test_manifests_agree_with_the_image() -> None:
    """
    They agree in user, port, volume and version.

    The probes request existing endpoints, and the grace period is longer than a stop.
    """
    context = POD["securityContext"]
    user = f"{context['runAsUser']}:{context['runAsGroup']}"
    assert _instruction("USER") == user == f"{context['fsGroup']}:{context['fsGroup']}"
    (port,) = CONTAINER["ports"]
    assert _instruction("EXPOSE") == str(port["containerPort"])
    (mount,) = CONTAINER["volumeMounts"]
    (claim,) = _SET["volumeClaimTemplates"]
    assert _instruction("VOLUME") == mount["mountPath"]
    assert mount["name"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    (image,) = _KUSTOMIZATION["images"]
    assert image == {"name": CONTAINER["image"], "newTag": version("pexservice")}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = CONTAINER[probe]["httpGet"]
        assert asked["path"].encode() in DEFAULT_TABLE.by_path
        assert asked["port"] == port["name"]
    assert POD["terminationGracePeriodSeconds"] > 11
    # The verification of a large store may take long, at most a day.
    startup = CONTAINER["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 24 * 3600


@pytest.mark.needs("kubectl", "kustomize", "kubernetes-validate")
def test_overlay_can_use_the_backup_and_monitoring_components(tmp_path: Path) -> None:
    """
    The backup runs one command of pexctl in the pod, and may do nothing else.

    The monitor selects the pod, and its ports.
    """
    overlay = tmp_path / "kustomization.yaml"
    # kustomize requires a path relative to the overlay.
    place = os.path.relpath(PLACE, tmp_path)
    overlay.write_text(
        f"resources: [{place}]\ncomponents: [{place}/backup, {place}/monitoring]\n"
    )
    built = list(yaml.safe_load_all(_run("kustomize", "build", str(tmp_path))))
    by_kind = {manifest["kind"]: manifest for manifest in built}
    for kind in (
        *("CronJob", "ServiceAccount", "Role", "RoleBinding"),
        *("NetworkPolicy", "StatefulSet"),
    ):
        assert_valid(by_kind[kind])
    job = by_kind["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    assert container["securityContext"] == CONTAINER["securityContext"]
    pod = f"{by_kind['StatefulSet']['metadata']['name']}-0"
    assert container["command"] == [
        *("kubectl", "exec", pod, f"--container={CONTAINER['name']}", "--")
    ]
    name, *arguments = container["args"]
    assert name == "pexctl"
    parsed = vars(PARSER.parse_args(arguments))
    assert parsed["keep"] == 14
    containers = by_kind["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    (exporter,) = (
        container for container in containers if container["name"] == "backup-metrics"
    )
    assert exporter["securityContext"] == CONTAINER["securityContext"]
    directory = str(Path(parsed["textfile"]).parent)
    assert f"--collector.textfile.directory={directory}" in exporter["args"]
    (exported,) = exporter["ports"]
    allowed = by_kind["NetworkPolicy"]["spec"]["ingress"][0]["ports"]
    rules = by_kind["Role"]["rules"]
    assert [rule["resourceNames"] for rule in rules] == [[pod], [pod]]
    monitor = by_kind["PodMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"] == _SET["selector"]["matchLabels"]
    (port,) = CONTAINER["ports"]
    scraped = [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]]
    assert scraped == [port["name"], exported["name"]]
    assert scraped == [rule["port"] for rule in allowed]


def test_selectors_match_the_only_pod_of_the_set() -> None:
    labels = _SET["template"]["metadata"]["labels"]
    assert labels == _SET["selector"]["matchLabels"]
    assert labels == MANIFESTS["service.yaml"]["spec"]["selector"]
    policy = MANIFESTS["networkpolicy.yaml"]["spec"]
    assert labels == policy["podSelector"]["matchLabels"]
    assert policy["egress"] == []
    assert _SET["replicas"] == 1
    headless = MANIFESTS["headless.yaml"]
    assert _SET["serviceName"] == headless["metadata"]["name"]
    assert headless["spec"]["clusterIP"] == "None"
    assert labels == headless["spec"]["selector"]


@pytest.mark.needs("kubectl", "kustomize")
def test_kubectl_and_kustomize_build_the_same() -> None:
    built = _run("kustomize", "build", str(PLACE))
    assert built == _run("kubectl", "kustomize", str(PLACE))
    assert len(list(yaml.safe_load_all(built))) == len(MANIFESTS)


def _instruction(instruction: str) -> str:
    """
    Return the argument of an instruction in the last stage of the Dockerfile.
    """
    arguments: list[str] = re.findall(rf"^{instruction} (.+)$", DOCKERFILE, re.MULTILINE)
    return arguments[-1]


def _run(*command: str) -> str:
    return subprocess.check_output(command, text=True, timeout=60)

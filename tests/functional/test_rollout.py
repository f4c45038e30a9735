"""
A rolling update of nodes on etcd behind a proxy, in the order in which Kubernetes makes it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.support.clients import Client, running, surprises, until_acknowledged
from tests.support.daemon import Daemon
from tests.support.etcd import cluster
from tests.support.nginx import serving

DEPLOYMENT = (
    Path(__file__).parents[2] / "deploy" / "kubernetes" / "etcd" / "deployment.yaml"
)

#: The test's proxy knows after this time that a node ends.  On Kubernetes it takes longer.
PROXY_DELAY_SECONDS = 0.5

_UPSTREAM = """
    upstream nodes {{
        {servers}
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            # A GET moves the cursor.
            proxy_next_upstream off;
        }}
    }}
"""


def written(path: Path, nodes: Sequence[Daemon], port: int) -> str:
    """
    Write the nginx configuration of C{nodes} to a file, and return a line that includes it.
    """
    servers = " ".join(f"server 127.0.0.1:{node.port};" for node in nodes)
    (path / "upstream").write_text(_UPSTREAM.format(servers=servers, port=port))
    return f"include {path}/upstream;"


@pytest.mark.long
@pytest.mark.needs("etcd", "nginx")
def test_rolling_update_of_three_nodes_fails_no_request(tmp_path: Path) -> None:
    """
    A new node is ready before an old one ends.

    The proxy learns that the old node ends.  The old node accepts requests as long as
    preStop says, and then it is stopped.  Each step is made once.
    """
    container = yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]
    (container,) = container["containers"]
    _, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert float(pause) >= 2 * PROXY_DELAY_SECONDS
    proxy = tmp_path / "nginx"
    proxy.mkdir()
    with ExitStack() as stack:
        (member,) = stack.enter_context(cluster(tmp_path))

        def node(number: int) -> Daemon:
            place = tmp_path / f"node-{number}"
            place.mkdir()
            store = ("--store", f"etcd:{member.url}", "--standby", "0")
            return stack.enter_context(Daemon(place, *store))

        nodes = [node(number) for number in range(3)]
        port = stack.enter_context(serving(proxy, lambda at: written(proxy, nodes, at)))
        # nginx closes keep-alive connections when it is reloaded.
        clients = [Client(2 * number + 1, port, fresh=True) for number in range(4)]
        with running(clients):
            for number in range(3, 6):
                fresh, old = node(number), nodes.pop(0)
                nodes.append(fresh)
                written(proxy, nodes, port)
                until_acknowledged(clients, 20)
                reload_proxy(proxy)
                time.sleep(2 * PROXY_DELAY_SECONDS)
                old.stop()
            until_acknowledged(clients, 50)
        assert surprises(clients) == []
        assert [(client.broken, client.refused) for client in clients] == [(0, 0)] * 4
        revisions = [step.revision for client in clients for step in client.acknowledged]
        assert sorted(revisions) == [*range(1, len(revisions) + 1)]
        assert max(revisions) == nodes[0].revision()


def reload_proxy(path: Path) -> None:
    os.kill(int((path / "nginx.pid").read_text()), signal.SIGHUP)

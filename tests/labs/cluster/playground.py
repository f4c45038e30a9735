"""
C{make cluster}: three members of etcd and three nodes on loopback, to play with.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.etcd import cluster

#: The ports of the nodes.
PORTS = (8081, 8082, 8083)

#: A configuration for C{nginx -c FILE}.
NGINX = """\
daemon off; pid nginx.pid; error_log stderr;
events {}
http {
    access_log off;
    upstream pexservice { %s keepalive 64; }
    server {
        listen 127.0.0.1:8080;
        location / {
            proxy_pass http://pexservice;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # A POST that was sent is not sent to another node as well; a GET is.
            proxy_next_upstream error timeout;
        }
    }
}
"""


def main() -> None:
    """
    Run the cluster until Ctrl-C.
    """
    write = sys.stdout.write
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write("starting three members of etcd ...\n")
        members = stack.enter_context(cluster(path, 3))
        urls = [member.url for member in members]
        for number, port in enumerate(PORTS):
            urls_in_order = urls[number:] + urls[:number]
            directory = path / str(port)
            directory.mkdir()
            stack.enter_context(
                Daemon(
                    directory,
                    *("--store", "etcd:" + ",".join(urls_in_order)),
                    *("--listen", f"tcp:{port}:interface=127.0.0.1"),
                )
            )
        (path / "nginx.conf").write_text(
            NGINX % " ".join(f"server 127.0.0.1:{port};" for port in PORTS)
        )
        for member, url in zip(members, urls, strict=True):
            assert member.process is not None
            write(f"etcd {member.name}, process {member.process.pid}: {url}\n")
        for port in PORTS:
            write(f"node http://127.0.0.1:{port}, log {path}/{port}/log\n")
        write(f"all nodes at http://127.0.0.1:8080: nginx -p {path} -c nginx.conf\n")
        write(
            "the stored keys: etcdctl --endpoints "
            + ",".join(urls)
            + " get --prefix pexservice/\nCtrl-C stops everything.\n"
        )
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()

"""
C{make cluster}: three etcd and three nodes on loopback, to play with.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.etcd import cluster

#: Where the nodes listen.
PORTS = (8081, 8082, 8083)

#: For C{nginx -c FILE}.
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
    say = sys.stdout.write
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        say("three etcd begin ...\n")
        members = stack.enter_context(cluster(path, 3))
        urls = [member.url for member in members]
        for number, port in enumerate(PORTS):
            order = urls[number:] + urls[:number]
            place = path / str(port)
            place.mkdir()
            stack.enter_context(
                Daemon(
                    place,
                    *("--store", "etcd:" + ",".join(order)),
                    *("--listen", f"tcp:{port}:interface=127.0.0.1"),
                )
            )
        (path / "nginx.conf").write_text(
            NGINX % " ".join(f"server 127.0.0.1:{port};" for port in PORTS)
        )
        for member, url in zip(members, urls, strict=True):
            assert member.process is not None
            say(f"etcd {member.name}, process {member.process.pid}: {url}\n")
        for port in PORTS:
            say(f"node http://127.0.0.1:{port}, log {path}/{port}/log\n")
        say(f"all of them at http://127.0.0.1:8080: nginx -p {path} -c nginx.conf\n")
        say(
            "what is kept: etcdctl --endpoints "
            + ",".join(urls)
            + " get --prefix pexservice/\nCtrl-C ends it all.\n"
        )
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()

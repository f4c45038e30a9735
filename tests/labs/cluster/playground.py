"""
C{make cluster}: three members of etcd and three nodes on loopback, to play with.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.etcd import cluster

#: The ports of the nodes.
PORTS = (8081, 8082, 8083)


def main() -> None:
    """
    Run the cluster until Ctrl-C.
    """
    write = sys.stdout.write
    # Ctrl-C ends the nodes too.  They may have that status only if an exception ends their
    # blocks.
    with suppress(KeyboardInterrupt), ExitStack() as stack:
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
        endpoints = ",".join(urls)
        write(f"etcd: {endpoints}\n")
        for port in PORTS:
            write(f"node http://127.0.0.1:{port}, log {path}/{port}/log\n")
        write(
            f"the stored keys: etcdctl --endpoints {endpoints} get --prefix pexservice/\n"
            "Ctrl-C stops everything.\n"
        )
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()

"""
A real etcd cluster on loopback, from Debian's etcd-server.
"""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define

from tests.support.commands import run_command
from tests.support.daemon import TIMEOUT_SECONDS, wait_until
from tests.support.needs import program
from tests.support.ports import held_ports


@define(eq=False)
class Member:
    """
    One member of an etcd cluster.

    @ivar url: the address for clients.
    """

    name: str
    url: str
    command: Sequence[str]
    log: Path
    context: ssl.SSLContext | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """
        Start the member, with the data of its last run if there is any.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def option(self, name: str) -> str:
        """
        Return the value of the command-line option C{name}.
        """
        return self.command[self.command.index(name) + 1]

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """
        Kill the member by SIGKILL.
        """
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(
        self,
        path: str,
        message: dict[str, Any] | None = None,
        timeout: float = TIMEOUT_SECONDS,
        **headers: str,
    ) -> Any:
        """
        Call etcd's gateway: by POST if there is a message, else by GET.
        """
        data = None if message is None else json.dumps(message).encode()
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310 ours
        with urllib.request.urlopen(  # noqa: S310 ours
            request, timeout=timeout, context=self.context
        ) as answer:
            return json.loads(answer.read())

    def healthy(self) -> bool:
        """
        Return whether the member has a quorum.
        """
        with suppress(OSError, ValueError):
            return bool(self.ask("/health", timeout=5)["health"] == "true")
        return False

    def leads(self) -> bool:
        """
        Return whether the member is the leader.
        """
        with suppress(OSError, ValueError, KeyError):
            status = self.ask("/v3/maintenance/status", {}, timeout=5)
            return bool(status["leader"] == status["header"]["member_id"])
        return False


def wait_for_quorum(members: Sequence[Member]) -> None:
    wait_until(lambda: all(member.healthy() for member in members), "the cluster is up")


@contextmanager
def without_space(member: Member) -> Iterator[None]:
    """
    Make etcd refuse all writes until the end of the block.
    """
    alarm = {"alarm": "NOSPACE", "memberID": 0}
    member.ask("/v3/maintenance/alarm", {"action": "ACTIVATE", **alarm})
    try:
        yield
    finally:
        for alarmed in member.ask("/v3/maintenance/alarm", {"action": "GET"})["alarms"]:
            member.ask("/v3/maintenance/alarm", {"action": "DEACTIVATE", **alarmed})


def _etcdctl(*arguments: str) -> None:
    etcdctl = program("etcdctl")
    assert etcdctl is not None, "apt install etcd-client"
    run_command(etcdctl, *arguments)


def save_snapshot(member: Member, file: Path) -> None:
    """
    Write a snapshot of C{member} to C{file}.
    """
    _etcdctl("--endpoints", member.url, "snapshot", "save", str(file))


@contextmanager
def emptied(members: Sequence[Member]) -> Iterator[None]:
    """
    Kill all members, remove their data, and start them again after the block.
    """
    for member in members:
        member.kill()
        shutil.rmtree(member.option("--data-dir"))
    yield
    for member in members:
        member.start()
    wait_for_quorum(members)


def restore_snapshot(
    members: Sequence[Member],
    file: Path,
    bump: int = 0,
    *,
    stopped: Callable[[], object] = lambda: None,
) -> None:
    """
    Restore all members from C{file}, as docs/cluster.md describes it.

    @param bump: the number by which etcd's revision is raised.
    @param stopped: a function to call while no member runs.
    """
    bumped = ("--bump-revision", str(bump), "--mark-compacted") if bump else ()
    with emptied(members):
        stopped()
        for member in members:
            names = ("--name", "--data-dir", "--initial-advertise-peer-urls")
            options = (*names, "--initial-cluster")
            values = [part for name in options for part in (name, member.option(name))]
            _etcdctl("snapshot", "restore", str(file), *values, *bumped)


@contextmanager
def cluster(
    path: Path, size: int = 1, *options: str, context: ssl.SSLContext | None = None
) -> Iterator[list[Member]]:
    """
    Start a cluster of C{size} healthy members, and stop it after the block.

    @param options: command-line options of each member.
    @param context: the TLS context for calls to the members.
    """
    etcd = program("etcd")
    assert etcd is not None, "apt install etcd-server"
    with held_ports(2 * size) as ports:
        peers = [f"http://127.0.0.1:{port}" for port in ports[size:]]
        initial = ",".join(f"n{number}={peer}" for number, peer in enumerate(peers))
        members = []
        for number, (port, peer) in enumerate(zip(ports[:size], peers, strict=True)):
            scheme = "http" if context is None else "https"
            name, url = f"n{number}", f"{scheme}://127.0.0.1:{port}"
            command = [
                etcd,
                *("--name", name, "--data-dir", str(path / name)),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", initial, "--log-level", "error", *options),
            ]
            members.append(Member(name, url, command, path / f"{name}.log", context))
        try:
            for member in members:
                member.start()
            wait_for_quorum(members)
            yield members
        finally:
            for member in members:
                member.kill()

"""
Nodes with a store on a real etcd.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pexservice.stores.etcd.gateway import CallRefused
from pexservice.stores.etcd.records import base64_text
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, poll_attempts, wait_until
from tests.support.etcd import (
    Member,
    cluster,
    restore_snapshot,
    save_snapshot,
    without_space,
)
from tests.support.etcd_users import RANGE, TlsFiles, as_root, enable_users
from tests.support.fake_etcd import RIGHT, WRONG, FakeEtcd
from tests.support.pexctl import pexctl
from tests.support.ports import held_ports


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """
    Provide an etcd.  Each test has its own prefix there, and leaves no alarm.
    """
    with cluster(tmp_path_factory.mktemp("etcd")) as (member,):
        yield member


def node(path: Path, store: str, *options: str) -> Daemon:
    """
    Start a node in the directory C{path}.
    """
    path.mkdir(exist_ok=True)
    return Daemon(path, "--store", store, *options, command="pexservice-worker")


def records_between(member: Member, start: bytes, end: bytes) -> list[dict[str, str]]:
    """
    Return the records whose keys are at least C{start} and before C{end}.
    """
    message = {"key": base64_text(start), "range_end": base64_text(end)}
    records: list[dict[str, str]] = member.ask("/v3/kv/range", message).get("kvs", [])
    return records


@contextmanager
def two_nodes_and_a_stream(
    path: Path, store: str
) -> Iterator[tuple[Daemon, Daemon, socket.socket]]:
    """
    Start two nodes, and get the stream of events of the second one.
    """
    with (
        node(path / "one", store) as first_node,
        node(path / "two", store) as second_node,
        socket.create_connection(
            ("127.0.0.1", second_node.port), TIMEOUT_SECONDS
        ) as stream,
    ):
        stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield first_node, second_node, stream


def wait_for_event(stream: socket.socket, revision: int) -> None:
    heard = b""
    while b"id: %d\n" % revision not in heard:
        chunk = stream.recv(65536)
        assert chunk, heard
        heard += chunk


@pytest.mark.needs("etcd")
def test_fake_etcd_refuses_what_etcd_refuses(member: Member) -> None:
    """
    The unit tests use the fake.
    """
    fake = FakeEtcd()
    for message in [*WRONG, *RIGHT]:
        codes = []
        for apply in (member.ask, fake.apply):
            path = "/v3/kv/txn" if apply == member.ask else "kv/txn"
            try:
                apply(path, message)
            except urllib.error.HTTPError as error:
                with error:
                    codes.append(json.loads(error.read())["code"])
            except CallRefused as error:
                codes.append(error.code)
            else:
                codes.append(0)
        assert codes[0] == codes[1], message
    # The prefixes of the other tests begin with later letters.
    kept = [record["key"] for record in records_between(member, b"0", b"m")]
    assert kept == [base64_text(key) for key in sorted(fake.values)]


@pytest.mark.needs("etcd")
def test_supervisor_has_one_worker_and_replaces_it(member: Member, tmp_path: Path) -> None:
    """
    With a store on etcd there is no standby by default, because no lock keeps it waiting.

    A version of etcd with stale reads causes a warning.
    """
    version = member.ask("/version")["etcdserver"]
    with Daemon(tmp_path, "--store", f"etcd:{member.url}?prefix=replaced/") as daemon:
        log = daemon.wait_for_log(r"worker-1 serves")
        stale = (3, 5, 0) <= tuple(map(int, version.split("."))) < (3, 5, 28)
        assert (f"has etcd {version}: before etcd 3.5.28" in log) == stale
        assert daemon.request("/next", "POST")[1] == b"1\n"
        metrics = daemon.request("/metrics")[1]
        assert b"pexservice_standby_workers_wanted 0.0" in metrics
        (pid,) = re.findall(r"worker-\d is process (\d+)", log)
        os.kill(int(pid), signal.SIGKILL)
        daemon.wait_for_log(r"worker-1 ended by SIGKILL(?s:.*)worker-\d serves")
        assert daemon.request("/next", "POST")[0].headers["Pex-Position"] == "2"


@pytest.mark.needs("etcd")
def test_step_of_one_node_is_visible_at_the_other(member: Member, tmp_path: Path) -> None:
    """
    Both nodes have the same history and keys, and a stream reports the step.
    """
    store = f"etcd:{member.url}?prefix=shared/"
    with two_nodes_and_a_stream(tmp_path, store) as (first_node, second_node, stream):
        wait_for_event(stream, 0)
        key = {"Idempotency-Key": "k"}
        assert first_node.request("/next", "POST", key)[1] == b"1\n"
        assert second_node.request("/current")[1] == b"1\n"
        wait_for_event(stream, 1)
        again, _ = second_node.request("/next", "POST", key)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert second_node.request("/reset", "POST", key)[0].status == 422
        assert second_node.request("/next", "POST", {"If-Match": '"1"'})[0].status == 200
        stale, _ = first_node.request("/next", "POST", {"If-Match": '"1"'})
        assert (stale.status, stale.headers["Pex-Revision"]) == (412, "2")
        assert first_node.request("/history")[1] == second_node.request("/history")[1]
    # A stopped node has deleted its own keys.
    assert len(records_between(member, b"shared/", b"shared0")) == 5


@pytest.mark.needs("etcd")
def test_node_that_starts_while_etcd_does_not_answer_stays_up_and_serves_later(
    member: Member, tmp_path: Path
) -> None:
    """
    The node says that it is not ready, and why.  A member without a quorum is silent, too.
    """
    with held_ports(1) as (port,):
        member.signal(signal.SIGSTOP)
        store = f"etcd:{member.url}?prefix=silent/"
        options = ("--store", store, "--listen", f"tcp:{port}:interface=127.0.0.1")
        with ThreadPoolExecutor(1) as pool:
            # Daemon() waits until the node has read the cursor.
            starting = pool.submit(Daemon, tmp_path, *options)
            try:
                status = ("status", "--url", f"http://127.0.0.1:{port}")
                reason = f"store failed: no etcd answers: {member.url}: no answer in 1.0 s"
                wait_until(lambda: reason in pexctl(Path(), *status)[1], reason)
                assert not starting.done()
            finally:
                member.signal(signal.SIGCONT)
            with starting.result() as daemon:
                assert daemon.request("/next", "POST")[1] == b"1\n"
                assert len(_lines(daemon, "before etcd 3.5.28")) == 1


@pytest.mark.needs("etcd")
def test_full_etcd_makes_the_service_not_ready_but_still_readable(
    member: Member, tmp_path: Path
) -> None:
    with node(tmp_path, f"etcd:{member.url}?prefix=full/") as daemon:
        assert daemon.request("/next", "POST")[1] == b"1\n"
        with without_space(member):
            response, body = daemon.request("/next", "POST")
            assert response.status == 503
            assert b"database space exceeded; compact and defragment etcd" in body
            assert b"nothing was moved" in body
            _until_not_ready(daemon, "database space exceeded; compact and defragment")
            assert daemon.request("/current")[1] == b"1\n"
        wait_until(partial(_is_ready, daemon), "ready")
        assert daemon.request("/next", "POST")[1] == b"1\n"


def _until_not_ready(daemon: Daemon, reason: str) -> None:
    """
    Wait until C{/readyz} is 503 with C{reason}, and check that the metric agrees.
    """
    wait_until(lambda: not _is_ready(daemon), "not ready")
    assert reason in daemon.request("/readyz?verbose")[1].decode()
    assert b"pexservice_ready 0.0" in daemon.request("/metrics")[1]
    assert daemon.request("/livez")[0].status == 200


def _is_ready(daemon: Daemon) -> bool:
    return daemon.request("/readyz")[0].status == 200


def _lines(daemon: Daemon, words: str) -> list[str]:
    return [line for line in daemon.log.read_text().splitlines() if words in line]


@pytest.mark.needs("etcd", "etcdctl")
def test_restored_etcd_is_reported_by_each_node(tmp_path: Path) -> None:
    """
    After a restore, each node logs one critical line, ends its streams, and counts it.

    All nodes show the restored state, and continue from it.
    """
    with (
        cluster(tmp_path) as (member,),
        two_nodes_and_a_stream(tmp_path, f"etcd:{member.url}") as (
            first_node,
            second_node,
            stream,
        ),
    ):
        for _ in range(3):
            first_node.request("/next", "POST")
        save_snapshot(member, tmp_path / "snapshot")
        for _ in range(4):
            first_node.request("/next", "POST")
        assert second_node.request("/current")[0].headers["Pex-Revision"] == "7"
        wait_for_event(stream, 7)
        restore_snapshot([member], tmp_path / "snapshot", bump=1_000_000)
        for node in (first_node, second_node):
            wait_until(partial(_lines, node, "went back"), "a report")
            (line,) = _lines(node, "went back")
            assert "critical" in line
            assert "from revision 7 to 3" in line
            wait_until(partial(_is_ready, node), "ready")
            metrics = node.request("/metrics")[1]
            assert b"pexservice_cursor_went_back_total 1.0" in metrics
            assert b"pexservice_revision 3.0" in metrics
        wait_until(lambda: not stream.recv(65536), "the end of the stream")
        assert second_node.request("/next", "POST")[0].headers["Pex-Revision"] == "4"
        assert first_node.request("/current")[0].headers["Pex-Revision"] == "4"


@pytest.mark.needs("etcd")
def test_pexctl_checks_creates_and_advances_a_store_on_etcd(
    member: Member, tmp_path: Path
) -> None:
    """
    A node with C{--no-create} uses the store.  Another C{pexctl create} changes nothing.

    C{pexctl advance} gives the cursor a higher revision after a restore.
    """
    with held_ports(1) as (port,):
        away = f"http://127.0.0.1:{port}"
        store = f"etcd:{member.url},{away}?prefix=store/"
        status, words = pexctl(Path(), "check", "--store", store)
        assert status == 0
        assert f"{member.url}: etcd 3." in words
        assert f"{away}: Connection refused" in words
        assert "no cursor with the prefix store/" in words
        status, words = pexctl(Path(), "create", "--store", store)
        assert "a new store was created, at revision 0, position 0" in words
        assert status == 0
        with node(tmp_path, store, "--no-create") as daemon:
            assert daemon.request("/next", "POST")[0].headers["Pex-Revision"] == "1"
        before = records_between(member, b"store/", b"store0")
        status, words = pexctl(Path(), "create", "--store", store)
        assert (status, words.endswith(" already")) == (1, True), words
        assert records_between(member, b"store/", b"store0") == before
        assert pexctl(Path(), "advance", "--store", store, "1000") == (
            0,
            "the cursor is at revision 1000, position 1",
        )
        with without_space(member):
            status, words = pexctl(Path(), "check", "--store", store)
        assert status == 1
        assert "database space exceeded" in words


@pytest.mark.needs("etcd")
def test_service_uses_client_certificate_and_password_with_few_rights(
    tmp_path: Path,
) -> None:
    """
    The user may write only below the prefix.  A user who may only read is served reads.

    The service gets a new token after etcd has forgotten the old one, and warns of a
    certificate that ends soon.
    """
    files = TlsFiles.make(tmp_path)
    with cluster(tmp_path, 1, *files.tls_options(), context=files.context()) as (member,):
        enable_users(member)
        store = files.store(member.url, "ending", "pex")
        with node(tmp_path, store) as daemon:
            assert _lines(daemon, "ends in 3 days")
            metric = b"pexservice_store_certificate_expiry_timestamp_seconds "
            assert metric in daemon.request("/metrics")[1]
            assert daemon.request("/next", "POST")[1] == b"1\n"
            # A restart makes etcd forget its tokens.
            member.kill()
            member.start()
            for _ in poll_attempts():
                response, _ = daemon.request("/next", "POST", {"Idempotency-Key": "k"})
                if response.status == 200:
                    break
            assert response.headers["Pex-Position"] == "2"
            # This replaces the permission of the same range.
            read = {"name": "pex", "perm": {"permType": "READ", **RANGE}}
            as_root(member, "role/grant", read)
            _until_not_ready(daemon, "etcd refuses: etcdserver: permission denied")
            assert daemon.request("/current")[0].headers["Pex-Position"] == "2"
            assert daemon.request("/next", "POST")[0].status == 503
        (tmp_path / "password").write_text("guess\n")
        for wrong, words in {
            store: "authentication failed",
            f"etcd:{member.url}?ca={files.ca}": "TLS: ",
            f"etcd:{member.url}": "TLS: certificate verify failed",
            f"etcd:{member.url}?ca=none": "none: No such file",
        }.items():
            status, line = pexctl(Path(), "check", "--store", wrong)
            assert (status != 0, words in line) == (True, True), line

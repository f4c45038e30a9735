"""
Open a store that the last release wrote; see C{tests/nets/README.md}.
"""

from __future__ import annotations

import shutil
from http.client import HTTPResponse
from pathlib import Path

from pexservice.stores.lmdb.pages import check_pages
from tests.support.daemon import WORKER, Daemon
from tests.support.forms import amount
from tests.support.installation import RELEASE_STORE
from tests.support.pexctl import pexctl
from tests.unit.core.test_sequence import fibonacci

STORE = "pexservice-data"

REVISION, POSITION = 2050, 2040

#: The store was written with this option.
JOURNAL = ("--journal", "500")

#: For each key: its path, and revision and position of its response.
KEYS = {
    "first": ("/next", 9, 7),
    "second": ("/reset", 10, 0),
    **{
        f"key-{number}": ("/next", 10 + number, number)
        for number in range(1, 41, amount(short=13, long=1))
    },
}


def assert_state(answer: HTTPResponse, body: bytes, revision: int, position: int) -> None:
    assert answer.status == 200
    assert answer.headers["Pex-Revision"] == str(revision)
    assert answer.headers["Pex-Position"] == str(position)
    assert int(body) == fibonacci(position)[0]


def test_cursor_history_and_keys_are_as_they_were(tmp_path: Path) -> None:
    """
    The service continues from the stored state, and again after a restart.

    A repeated key gets its earlier response, or 422 on another path.  C{pexctl verify}
    finds no damage in a backup that is made before, and in the store afterwards.
    """
    (tmp_path / STORE).mkdir(mode=0o700)
    for name in ("data.mdb", "newest"):
        shutil.copy(RELEASE_STORE / name, tmp_path / STORE)
    assert pexctl(tmp_path, "backup", STORE, "backup")[0] == 0
    status, output = pexctl(tmp_path, "verify", "backup")
    assert status == 0
    assert f"backup is whole: revision {REVISION}, position {POSITION}, " in output
    with Daemon(tmp_path, *JOURNAL, command=WORKER) as daemon:
        assert_state(*daemon.request("/current"), REVISION, POSITION)
        expected = (RELEASE_STORE / "history.txt").read_bytes()
        assert daemon.request("/history?limit=1000")[1] == expected
        for key, (path, revision, position) in KEYS.items():
            headers = {"Idempotency-Key": key}
            answer, body = daemon.request(path, "POST", headers)
            assert answer.headers["Idempotency-Replayed"] == "true"
            assert_state(answer, body, revision, position)
            assert daemon.request("/previous", "POST", headers)[0].status == 422
        answer, body = daemon.request("/next", "POST", {"Idempotency-Key": "key-41"})
        assert "Idempotency-Replayed" not in answer.headers
        assert_state(answer, body, REVISION + 1, POSITION + 1)
    with Daemon(tmp_path, *JOURNAL, command=WORKER) as daemon:
        assert_state(*daemon.request("/previous", "POST"), REVISION + 2, POSITION)
        assert daemon.step("next", {"Idempotency-Key": "key-41"}) == REVISION + 1
        history = daemon.request("/history?limit=1000")[1].splitlines()
        assert history[2:] == expected.splitlines()[:498]
    assert pexctl(tmp_path, "verify", STORE)[0] == 0


def test_page_check_accepts_the_file_as_another_lmdb_wrote_it() -> None:
    checked = check_pages(RELEASE_STORE, lambda _: None)
    assert checked.entries[b"cursor"] == 1

"""
kill -9 under load.  The clients keep their own records, and the records are the
check: what a client was told must be in the history, once, as it was told.
"""

from __future__ import annotations

import json
import random
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

from attrs import Factory, define

from pexservice.cursor import Transition, follow_position
from tests.functional.daemon import PATIENCE, Daemon

KILLS = 100
CLIENTS = 32

#: How long the load goes on before each kill, at least and at most.  Seconds.
LOAD = (0.02, 0.3)

#: The one process that matters here; what a supervisor adds is test_keepalive's.
WORKER = "pexservice-worker"

#: More than the test can make.
JOURNAL = "10000000"


@define(eq=False)
class Client(threading.Thread):
    """
    Steps as fast as it is answered, and waits when nobody is there.

    @ivar told: (revision, position, word) of each answer.
    @ivar keyed: by idempotency key, what the answer said.
    """

    number: int
    port: int
    stopping: threading.Event
    told: list[tuple[int, int, str]] = Factory(list)
    keyed: dict[str, tuple[int, int, str]] = Factory(dict)
    replayed: int = 0
    surprises: list[str] = Factory(list)

    def __attrs_post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        """
        Until told to stop.
        """
        choose = random.Random(self.number)  # noqa: S311 nothing secret
        count = 0
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        while not self.stopping.is_set():
            count += 1
            word = choose.choices(["next", "previous", "reset"], [90, 9, 1])[0]
            # Every other client uses keys, and repeats what it got no answer to.
            key = f"{self.number}-{count}" if self.number % 2 else None
            headers = {} if key is None else {"Idempotency-Key": key}
            while not self.stopping.is_set():
                try:
                    connection.request("POST", f"/{word}", headers=headers)
                    response = connection.getresponse()
                    response.read()
                except (OSError, HTTPException):
                    connection.close()
                    time.sleep(0.01)
                    if key is None:
                        break
                else:
                    self._note(word, key, response)
                    break
        connection.close()

    def _note(self, word: str, key: str | None, response: HTTPResponse) -> None:
        if response.status != 200:
            self.surprises.append(f"{response.status} {response.reason}")
            return
        answer = (
            int(response.headers["Pex-Revision"]),
            int(response.headers["Pex-Position"]),
            word,
        )
        self.told.append(answer)
        if key is not None:
            self.keyed[key] = answer
            self.replayed += response.headers["Idempotency-Replayed"] == "true"


def whole_history(daemon: Daemon) -> dict[int, tuple[int, str]]:
    """
    By revision, where each transition led, followed page by page.
    """
    rows, path = {}, "/history?limit=1000"
    while path:
        page = json.loads(daemon.ask(path, headers={"Accept": "application/json"})[1])
        for row in page["transitions"]:
            assert row["revision"] not in rows
            rows[row["revision"]] = (row["position"], row["transition"])
        path = page["next"]
    return rows


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """
    After each of a hundred kills the revision is at least the highest acknowledged;
    each acknowledged revision was acknowledged once, or again to its key; the history
    has every one of them as it was told; and it replays to the cursor.
    """
    stopping = threading.Event()
    moments = random.Random(1)  # noqa: S311 as above
    daemon = Daemon(tmp_path, "--journal", JOURNAL, command=WORKER)
    listen = f"tcp:{daemon.port}:interface=127.0.0.1"
    clients = [Client(number, daemon.port, stopping) for number in range(CLIENTS)]
    try:
        for client in clients:
            client.start()
        for _ in range(KILLS):
            time.sleep(moments.uniform(*LOAD))
            daemon.kill()
            highest = max((each.told[-1][0] for each in clients if each.told), default=0)
            daemon = Daemon(
                tmp_path, "--journal", JOURNAL, "--listen", listen, command=WORKER
            )
            daemon.port = clients[0].port
            answer, _ = daemon.ask("/current")
            assert int(answer.headers["Pex-Revision"]) >= highest
        stopping.set()
        for client in clients:
            client.join(PATIENCE)
        check(daemon, clients)
    finally:
        stopping.set()
        daemon.kill()


def check(daemon: Daemon, clients: list[Client]) -> None:
    """
    The clients' records against the history, and the history against the cursor.
    """
    rows = whole_history(daemon)
    told = [answer for client in clients for answer in client.told]
    assert [each for client in clients for each in client.surprises] == []
    assert len({revision for revision, _, _ in told}) == len(told)
    for revision, position, word in told:
        assert rows[revision] == (position, word)

    position = 0
    for revision in range(1, len(rows) + 1):
        after, word = rows[revision]
        position = follow_position(position, Transition[word.upper()])
        assert position == after
    answer, _ = daemon.ask("/current")
    assert (
        int(answer.headers["Pex-Revision"]),
        int(answer.headers["Pex-Position"]),
    ) == (len(rows), position)

    # What was taken and not told: at most what was under way at each kill.
    assert len(rows) - len(told) <= KILLS * CLIENTS
    # The load was one, and steps that were taken just before a kill were repeated.
    assert len(told) > 50 * KILLS
    assert sum(client.replayed for client in clients) > 0

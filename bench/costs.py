"""
The costs of headers, bodies and options: the servers, the requests, the table.

All servers get the same headers, in turns.  The rate of cheap requests is limited by the
client, so the table also has the processor time of the server.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme
from attrs import evolve, frozen

from bench import peers
from bench.load import BadResponses, Load, Target, measure
from bench.processors import Processes

ORIGIN = "https://app.example.com"
TOKEN = "a-token-of-the-bench"  # noqa: S105 it opens nothing

#: How many keys the store has at the beginning, so that each commit trims some.
USED_KEYS = 150_000

PLAIN, LOG, CORS, PROXY, TOKENS, KEYS, TLS = (
    *("plain", "access log", "CORS", "proxy", "token", "keys", "TLS"),
)

_ID = "X-Request-ID: {id}"

_CHROME = (
    "Cache-Control: max-age=0",
    'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24"',
    "sec-ch-ua-mobile: ?0",
    'sec-ch-ua-platform: "Linux"',
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/140.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
    "Sec-Fetch-Site: none",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-User: ?1",
    "Sec-Fetch-Dest: document",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-US,en;q=0.9",
)

_CURL = ("User-Agent: curl/8.14.1", "Accept: */*")

_NGINX = ("X-Real-IP: {address}", "X-Forwarded-For: {address}", "X-Forwarded-Proto: http")


@frozen
class Request:
    """
    A kind of request.

    @ivar heads: see L{Load.heads}.
    @ivar carries: describes the headers, the body or the option in the table.
    @ivar server: the server that gets the request.
    @ivar min_ratio: the minimum of its rate divided by the rate of identical bytes, on kept
        connections.
    @ivar moves: whether the request moves the cursor, if it is a step.
    @ivar body: the body; a request with a body is a POST.
    """

    carries: str
    heads: Sequence[Sequence[str]]
    server: str = PLAIN
    min_ratio: float | None = None
    moves: bool = True
    body: str = ""

    @property
    def differs(self) -> bool:
        """
        Return whether only C{wrk} can send the requests: they differ, or have a body.
        """
        heads = str(self.heads)
        return bool(self.body) or len(self.heads) > 1 or "{" in heads


SAME = Request("nothing: identical bytes", [[]])

#: The name of the runs of identical bytes next to those of each kind of request.
_IDENTICAL = "identical bytes"

READS = (
    SAME,
    Request("a unique `X-Request-ID`", [[_ID]], min_ratio=0.85),
    Request("Chrome's head and a unique id", [[*_CHROME, _ID]], min_ratio=0.8),
    Request(
        "a unique id, two heads in turns", [[*_CURL, _ID], [*_CHROME, _ID]], min_ratio=0.45
    ),
    Request("a header whose name is unique", [["X-{id}: 1"]], min_ratio=0.4),
    Request("`Accept: application/json`", [["Accept: application/json"]], min_ratio=0.9),
    Request(
        "`If-None-Match`, a miss that differs", [['If-None-Match: "{id}"']], min_ratio=0.58
    ),
    Request(
        "`If-None-Match`, a miss that differs, and a unique id",
        [['If-None-Match: "{id}"', _ID]],
        min_ratio=0.45,
    ),
    Request(
        "`Origin`, with `--cors-origin`", [[f"Origin: {ORIGIN}"]], CORS, min_ratio=0.85
    ),
    Request("nothing, with `--access-log`", [[]], LOG, min_ratio=0.6),
    Request(
        "nginx's headers, `--trusted-proxy`, `--rate-limit`", [_NGINX], PROXY, min_ratio=0.4
    ),
    Request("nothing, over TLS", [[]], TLS),
)

STEPS = (
    SAME,
    Request("a unique `X-Request-ID`", [[_ID]], min_ratio=0.9),
    Request("`Accept: application/json`", [["Accept: application/json"]], min_ratio=0.9),
    Request("a JSON body", [["Content-Type: application/json"]], min_ratio=0.7, body="{}"),
    Request(
        "a token, with `--token-file`",
        [[f"Authorization: Bearer {TOKEN}"]],
        TOKENS,
        min_ratio=0.85,
    ),
    Request("nothing, with `--access-log`", [[]], LOG, min_ratio=0.9),
    Request("`Origin`, with `--cors-origin`", [[f"Origin: {ORIGIN}"]], CORS, min_ratio=0.9),
    Request("`If-Match: *`", [["If-Match: *"]], min_ratio=0.75),
    Request(
        "a fresh random `Idempotency-Key`, 100,000 kept",
        [["Idempotency-Key: {key}"]],
        KEYS,
        min_ratio=0.6,
    ),
    Request(
        "an `Idempotency-Key` that was used",
        [["Idempotency-Key: the-first"]],
        min_ratio=0.8,
        moves=False,
    ),
    Request("nothing, over TLS", [[]], TLS),
)


@frozen
class Cost:
    """
    The cost of one kind of request at one server.

    @ivar rate: requests per second, as a median.
    @ivar microseconds: the server's processor time for one request.
    """

    rate: float
    microseconds: float


def _store_with_keys(path: Path) -> None:
    """
    Make a store in which L{USED_KEYS} random keys were used.
    """
    from tests.support.fakes import inline, now  # noqa: PLC0415 for this measurement alone

    from pexservice.core.cursor import Cursor  # noqa: PLC0415 for this measurement alone
    from pexservice.stores.interface import Batch  # noqa: PLC0415 for this measurement alone
    from pexservice.stores.lmdb.directory import Directory  # noqa: PLC0415 for this measurement alone
    from pexservice.stores.lmdb.store import LmdbStore  # noqa: PLC0415 for this measurement alone
    from pexservice.stores.remembered_keys import pack_use  # noqa: PLC0415 for this measurement alone

    store = LmdbStore(Directory(str(path)), inline(), verify=lambda *_: None)
    now(store.open())
    size = 500
    for first in range(1, USED_KEYS, size):
        keys = {
            b"%032x" % random.getrandbits(128): pack_use(b"r", revision, 0)
            for revision in range(first, first + size)
        }
        before, after = Cursor(first - 1, 0), Cursor(first - 1 + size, 0)
        now(store.commit(Batch(before, b"r" * size, after, time.time_ns(), keys)))
    now(store.close())


@contextmanager
def servers(path: Path, say: Callable[[str], None]) -> Iterator[Mapping[str, Target]]:
    """
    Run pexservice with each set of options that a request needs.
    """
    path.mkdir(parents=True, exist_ok=True)
    issued = trustme.CA().issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(path / "key.pem")
    (path / "chain.pem").write_bytes(
        b"".join(certificate.bytes() for certificate in issued.cert_chain_pems)
    )
    (path / "tokens").write_text(f"{TOKEN}\n")
    options = {
        PLAIN: (),
        LOG: ("--access-log", "access.log"),
        CORS: ("--cors-origin", ORIGIN),
        PROXY: ("--trusted-proxy", "127.0.0.1", "--rate-limit", "1000000"),
        TOKENS: ("--token-file", str(path / "tokens")),
        KEYS: (),
        TLS: (
            *("--tls-certificate", str(path / "chain.pem")),
            *("--tls-key", str(path / "key.pem")),
        ),
    }
    with ExitStack() as stack:
        targets = {}
        for number, (name, words) in enumerate(options.items()):
            say(f"starting pexservice, {name}")
            home = path / str(number)
            home.mkdir()
            if name == KEYS:
                _store_with_keys(home / "pexservice-data")
            target = stack.enter_context(peers.ours(home, *words))
            if name == TLS:
                # The revision cannot be read, because the client does not trust this
                # certificate.
                secure = target.url.replace("http:", "https:")
                target = evolve(target, url=secure, counts=False)
            targets[name] = target
        yield targets


def load_of(request: Request, *, steps: bool, kept_alive: bool) -> Load:
    """
    Return the load that sends C{request}.

    @param kept_alive: whether to keep 64 connections; otherwise each request has its own
        connection, 10 at a time.
    """
    return Load(
        "wrk" if kept_alive or request.differs else "ab",
        64 if kept_alive else 10,
        steps,
        carries=request.carries,
        heads=request.heads,
        closes=not kept_alive and request.differs,
        up_only=steps and not request.moves,
        moves=request.moves,
        body=request.body,
    )


class Costs:
    """
    The measurements of all costs.
    """

    def __init__(
        self,
        ours: Mapping[str, Target],
        others: Sequence[Target],
        *,
        rounds: int,
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._ours = ours
        self._others = others
        self._rounds = rounds
        self._seconds = seconds
        self._say = say
        self._processes = Processes()

    def table(self, *, steps: bool, kept_alive: bool) -> list[str]:
        """
        Measure requests on one kind of connection, and return the table in Markdown.
        """
        requests = STEPS if steps else READS
        wanted = [
            (request, load_of(request, steps=steps, kept_alive=kept_alive))
            for request in requests
        ]
        if not kept_alive:
            # Requests that only wrk can send are compared with identical bytes that wrk
            # sends.
            same = evolve(wanted[0][1], tool="wrk", closes=True)
            wanted.insert(1, (evolve(SAME, carries="the same, by wrk"), same))
        plain = self._ours[PLAIN]
        identical = {
            load.tool: load
            for request, load in wanted
            if (request.heads, request.server) == (SAME.heads, SAME.server)
        }
        costs: dict[tuple[str, str], list[Cost]] = {}
        for number in range(self._rounds):
            for request, load in wanted:
                runs = [(target.name, target, load) for target in self._targets(request)]
                # A busy machine may be slow for some seconds, so identical bytes are
                # measured next to each kind of request.
                runs.append((_IDENTICAL, plain, identical[load.tool]))
                for name, target, run_load in runs if number % 2 else runs[::-1]:
                    # A peer without idempotency would make all these steps, and reach
                    # values that fill its memory.
                    up_only = run_load.up_only and target.name == peers.OURS
                    cost = self._cost(target, evolve(run_load, up_only=up_only))
                    if cost is not None:
                        costs.setdefault((request.carries, name), []).append(cost)
            self._say(f"{wanted[0][1]} and the others: round {number + 1}")
        medians = {key: _median(runs) for key, runs in costs.items()}
        return self._lines(wanted, medians, steps=steps, kept_alive=kept_alive)

    def _targets(self, request: Request) -> list[Target]:
        others = [] if request.server == TLS else self._others
        return [self._ours[request.server], *others]

    def _cost(self, target: Target, load: Load) -> Cost | None:
        """
        Return the cost of C{load} at C{target}; if the measurement fails, report the error.
        """
        port = int(target.url.rpartition(":")[2])
        before = self._processes.seconds(port)
        try:
            measured = measure(target, load, self._seconds)
        except (BadResponses, OSError) as error:
            self._say(f"{load}: {target.name}: {error}")
            return None
        spent = self._processes.seconds(port) - before
        return Cost(measured.rate, 1e6 * spent / max(1, measured.requests))

    def _lines(
        self,
        wanted: Sequence[tuple[Request, Load]],
        medians: Mapping[tuple[str, str], Cost],
        *,
        steps: bool,
        kept_alive: bool,
    ) -> list[str]:
        # Other servers are compared only on kept connections.
        others = [target.name for target in self._others] if kept_alive else []
        kind = "step" if steps else "read"
        head = [f"a {kind} that carries", *(() if kept_alive else ("by",)), "requests/s"]
        head += ["of identical bytes", *(("at least",) if kept_alive else ())]
        head += ["server CPU, µs"]
        for name in others:
            head += [f"{name}, requests/s", "ours to it", "its CPU, µs"]
        lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
        for request, load in wanted:
            ours = medians.get((request.carries, peers.OURS))
            same = medians.get((request.carries, _IDENTICAL))
            cells = [request.carries, *(() if kept_alive else (load.tool,))]
            cells += [_rate(ours), _ratio(ours, same)]
            cells += [f"{request.min_ratio or ''}"] if kept_alive else []
            cells += [f"{ours.microseconds:.1f}" if ours else "-"]
            for name in others:
                theirs = medians.get((request.carries, name))
                cells += [_rate(theirs), _ratio(ours, theirs)]
                cells += [f"{theirs.microseconds:.1f}" if theirs else "-"]
            lines.append(f"| {' | '.join(cells)} |")
        return lines


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.rate for cost in costs),
        statistics.median(cost.microseconds for cost in costs),
    )


def _rate(cost: Cost | None) -> str:
    return "-" if cost is None else f"{cost.rate:,.0f}"


def _ratio(cost: Cost | None, other: Cost | None) -> str:
    return "-" if cost is None or other is None else f"{cost.rate / other.rate:.2f}"


def measure_all(
    path: Path,
    others: Sequence[Target],
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[str]:
    """
    Measure everything, and return the lines of the page.
    """
    with servers(path, say) as ours:
        costs = Costs(ours, others, rounds=rounds, seconds=seconds, say=say)
        lines = [
            f"Each figure is the median of {rounds} runs of {seconds:g} seconds in turns,"
            f" client and server on the same {len(os.sched_getaffinity(0))} cores."
        ]
        for kept_alive, where in (
            (True, "On 64 kept connections, by wrk:"),
            (False, "With a connection for each request, 10 at a time:"),
        ):
            lines += ["", where]
            for steps in (False, True):
                lines += ["", *costs.table(steps=steps, kept_alive=kept_alive)]
    return lines

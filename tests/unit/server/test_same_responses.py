"""
The plan cache answers as the parser and the resource tree do, byte for byte.

Heads are generated that look as those of real clients do, each line of them in every state:
there or not, twice, empty, malformed, too long, in another case or order, with other
blanks.  The heads are sent to two workers, one of which parses all of them, and the
answers, the counts and the log lines are compared.  Unlike those of L{test_fuzz}, many of
them are recognized the second time.
"""

from __future__ import annotations

import ast
import random
import re
from hashlib import sha256
from pathlib import Path

import pytest
from attrs import define
from twisted.internet.address import IPv4Address, UNIXAddress

import pexservice
from pexservice.server.limits import Phase
from pexservice.web.access import Access
from pexservice.web.endpoints import POST_ONLY_TABLE
from pexservice.web.parameters import HEADERS, HeaderRole
from tests.support.forms import amount
from tests.support.wire import Server, Wire

ORIGIN = b"https://pages.example.org"
TOKEN = b"secret"

#: How a worker may be set up, in addition to the settings that all workers here have.
SETUPS: dict[str, dict[str, object]] = {
    "plain": {},
    "operated": {"access": Access(frozenset({sha256(TOKEN).digest()}))},
    "pages": {"access": Access(origins=[ORIGIN.decode(), "http://h"])},
    "behind a proxy": {"rate": 40, "proxies": ("10.0.0.9",)},
    "post only": {"table": POST_ONLY_TABLE, "rate": 60},
}

PEERS = (
    IPv4Address("TCP", "192.0.2.1", 1),
    IPv4Address("TCP", "10.0.0.9", 1),
    IPv4Address("TCP", "127.0.0.1", 1),
    UNIXAddress(None),
)
LOCALS = (IPv4Address("TCP", "127.0.0.1", 1), IPv4Address("TCP", "192.0.2.9", 1))

#: The values of the headers that are read, the first two of each as clients send them.
VALUES: dict[bytes, tuple[bytes, ...]] = {
    b"Accept": (
        *(b"*/*", b"application/json", b"text/plain", b"application/problem+json"),
        *(b"application/json;q=0.5, text/plain;q=0.4", b"a/b;q=x", b"", b"a" * 600),
        b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ),
    b"Connection": (
        *(b"keep-alive", b"close", b"Keep-Alive", b"CLOSE", b"close, keep-alive"),
        *(b"upgrade", b"Upgrade, close", b"", b",", b"keep-alive\tclose"),
    ),
    b"Host": (
        *[b"h"] * 12,
        *(b"127.0.0.1:8081", b"localhost", b"attacker.example", b"a b", b"", b"[::1]:1"),
        b"h:x",
    ),
    b"Idempotency-Key": (
        *(b"k", b"k", b"l", b"3f2b1c4e-8d1a-4c9b-9d1e-0123456789ab"),
        *(b"a b", b"", b"x" * 255, b"x" * 256, b"\xff", b"k,l"),
    ),
    b"If-Match": (b'"1"', b'"2"', b'"3-json"', b"*", b'"1", W/"2"', b"1", b"", b'"'),
    b"If-None-Match": (b'"0"', b'"1"', b'W/"1-json"', b"*", b'"1", "2"', b"nonsense", b""),
    b"X-Forwarded-For": (
        *(b"198.51.100.1", b"198.51.100.2", b"198.51.100.1, 10.0.0.9", b"unknown"),
        *(b"2001:db8::1", b"198.51.100.3:80", b"", b"01.2.3.4", b"256.1.1.1"),
    ),
    b"Authorization": (
        *(b"Bearer " + TOKEN, b"bearer  " + TOKEN, b"Bearer other", b"Basic eA==", b""),
    ),
    b"Origin": (
        *(ORIGIN, b"http://h", b"https://h:443", b"http://evil.example", b"null", b""),
    ),
    b"Sec-Fetch-Site": (b"same-origin", b"none", b"cross-site", b"same-site", b""),
    b"Sec-Purpose": (b"prefetch", b"other", b""),
    b"Purpose": (b"prefetch", b"preview"),
    b"X-Moz": (b"prefetch", b"x"),
    b"User-Agent": (b"curl/8.5", b"curl/8.5", b'it\'s "me"', b"\xff\xfe", b"a\\b", b""),
    b"Referer": (b"http://h/", b"http://h/?q=1", b""),
    b"Content-Length": (b"0", b"0", b"00", b"1", b"-0", b""),
    b"Transfer-Encoding": (b"chunked", b"identity"),
    b"Expect": (b"100-continue", b"x"),
    b"Upgrade": (b"h2c",),
    b"Last-Event-ID": (b"1",),
    b"Access-Control-Request-Method": (b"POST",),
}

#: Headers that the service does not read.
IGNORED: dict[bytes, tuple[bytes, ...]] = {
    b"X-Request-ID": (b"",),
    b"Accept-Encoding": (b"gzip, deflate, br", b"identity"),
    b"Accept-Language": (b"en", b"de-CH, de;q=0.9"),
    b"Cookie": (b"a=b", b"session=secret; x=y"),
    b"Sec-Fetch-Mode": (b"navigate", b"cors"),
    b"Range": (b"bytes=0-0",),
    b"Cache-Control": (b"no-cache",),
    b"Content-Type": (b"application/json", b"application/x-www-form-urlencoded"),
    b"X-Long": (b"y" * 700, b"y" * 9000),
    b"X-Controls": (b"a\x01b", b"a\x7fb", b"a\x80b", b"a\tb"),
}

#: Headers that clients usually send, and then all headers, rare ones too.
USUAL = (*list(VALUES)[:8], b"Origin", b"User-Agent", b"Referer", *list(IGNORED)[:8])
NAMES = (*VALUES, *IGNORED)
METHODS = (*[b"GET", b"POST"] * 10, b"HEAD", b"HEAD", b"PUT", b"OPTIONS")
READ = (*[b"/current"] * 12, b"/", b"/livez", b"/nowhere")
STEPS = (*[b"/next"] * 9, b"/previous", b"/reset", b"/current")
QUERIES = (*[b""] * 8, b"?a", b"?x=%20", b'?"', b"?\\", b"?a#b")


@define
class Line:
    """
    A line of a head, which a client sends with each request, usually the same.
    """

    name: bytes
    value: bytes
    between: bytes = b": "
    behind: bytes = b""

    def __bytes__(self) -> bytes:
        return self.name + self.between + self.value + self.behind + b"\r\n"


class Client:
    """
    A client that sends a head again and again with a few differences.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._method = chance.choice(METHODS)
        self._paths = STEPS if self._method == b"POST" else chance.choice((READ, STEPS))
        self._path = chance.choice(self._paths)
        self._version = chance.choice([b"HTTP/1.1"] * 4 + [b"HTTP/1.0"])
        names = chance.sample(USUAL, chance.choice((0, 1, 2, 3, 5, 9)))
        # A request of HTTP/1.0 may have no Host.
        host = [] if self._version == b"HTTP/1.0" and chance.random() < 0.5 else [b"Host"]
        self._lines = [self._line(name) for name in dict.fromkeys((*host, *names))]
        if chance.random() < 0.2:
            chance.shuffle(self._lines)

    def _line(self, name: bytes) -> Line:
        chance = self._chance
        values = VALUES.get(name) or IGNORED[name]
        # The first two values are those that clients send.
        value = chance.choice(values[:2] if chance.random() < 0.9 else values)
        if name == b"X-Request-ID":
            value = b"%032x" % chance.getrandbits(128)
        if name == b"Host" and chance.random() < 0.1:
            value = b"h%x" % chance.getrandbits(32)
        line = Line(name, value)
        if chance.random() < 0.02:
            line.name = chance.choice((name.lower(), name.upper(), name + b" "))
        if chance.random() < 0.02:
            line.between = chance.choice((b":", b":  ", b": \t"))
        if chance.random() < 0.02:
            line.behind = chance.choice((b" ", b"\t ", b"\r", b"\r\n folded"))
        return line

    def head(self) -> bytes:
        """
        Return the next head.
        """
        chance = self._chance
        for number, line in enumerate(self._lines):
            if line.name == b"X-Request-ID" or chance.random() < 0.15:
                # The new line has the same name, so that shapes are found.
                named = line.name.lower().strip()
                name = next(name for name in NAMES if name.lower() == named)
                self._lines[number] = self._line(name)
        happens = chance.random()
        if happens < 0.02 and self._lines:
            self._lines.pop(chance.randrange(len(self._lines)))
        elif happens < 0.06:
            # A new line comes in, or two of one name next to each other.
            name = chance.choice((*NAMES, b"Host", b"Host"))
            at = chance.randint(0, len(self._lines))
            self._lines[at:at] = [self._line(name) for _ in range(chance.choice((1, 1, 2)))]
        elif happens < 0.1:
            self._path = chance.choice(self._paths)
        target = self._path + chance.choice(QUERIES)
        start = b" ".join((self._method, target, self._version)) + b"\r\n"
        return start + b"".join(map(bytes, self._lines)) + b"\r\n"


def chunks_of(sent: bytes, chance: random.Random) -> list[bytes]:
    """
    Return C{sent} as chunks, usually in one piece.
    """
    if chance.random() < 0.9:
        return [sent]
    cut = chance.randint(0, len(sent))
    return [chunk for chunk in (sent[:cut], sent[cut:]) if chunk]


def undated(answer: bytes) -> bytes:
    """
    Return C{answer} without its dates.
    """
    return re.sub(rb"(?m)^Date: [^\r]*\r\n", b"", answer)


class Pair:
    """
    Two workers of one setup: one with a plan cache and one without.
    """

    def __init__(self, setup: str, chance: random.Random) -> None:
        self._chance = chance
        self.servers = [
            Server(remembers=remembers, logs=True, hosts=("h",), **SETUPS[setup])  # type: ignore[arg-type]
            for remembers in (True, False)
        ]
        self._wires: list[Wire] = []
        self.requests = 0

    def _connected(self) -> list[Wire]:
        if not self._wires or any(wire.closed for wire in self._wires):
            self.hang_up()
            peer, local = self._chance.choice(PEERS), self._chance.choice(LOCALS)
            self._wires = [server.connect(peer, local) for server in self.servers]
        return self._wires

    def hang_up(self) -> None:
        """
        Close the connections.
        """
        for wire in self._wires:
            wire.lose()
        self._wires = []

    def ask(self, *chunks: bytes) -> bytes:
        """
        Send C{chunks} to both workers, compare what comes back, and return it.
        """
        self.requests += 1
        wires = self._connected()
        begun = [len(wire.transport.value()) for wire in wires]
        for chunk in chunks:
            for wire in wires:
                wire.send(chunk)
                wire.turns(4)
                while wire.protocol.phase in (Phase.PERFORMING, Phase.PIPELINED):
                    wire.turns(4)
        answers: list[bytes] = [
            wire.transport.value()[start:] for wire, start in zip(wires, begun, strict=True)
        ]
        assert undated(answers[0]) == undated(answers[1]), chunks
        assert wires[0].closed == wires[1].closed, chunks
        return answers[0]

    def compare(self) -> None:
        """
        Compare the cursors, the log lines and the counts of both workers.
        """
        fast, slow = self.servers
        assert repr(fast.committer.durable) == repr(slow.committer.durable)
        assert fast.lines == slow.lines
        counted = [list(server.shared.requests.responses()) for server in self.servers]
        assert counted[0] == counted[1]

    @property
    def hits(self) -> int:
        """
        Return how many requests the plan cache knew.
        """
        return self.servers[0].shared.requests.with_plan()


def converse(pair: Pair, chance: random.Random, count: int) -> None:
    """
    Have some clients send C{count} heads in all.
    """
    clients = [Client(chance) for _ in range(4)]
    for number in range(count):
        if number % 40 == 0:
            clients[number // 40 % 4] = Client(chance)
        if chance.random() < 0.1:
            pair.hang_up()
        sent = chance.choice(clients).head()
        if chance.random() < 0.05:
            sent += chance.choice(clients).head()
        pair.ask(*chunks_of(sent, chance))
        if chance.random() < 0.1:
            seconds = chance.choice((0.05, 1.0))
            for server in pair.servers:
                server.clock.turn(seconds)
                server.shared.tick()


@pytest.mark.parametrize("setup", SETUPS)
def test_workers_with_and_without_plans_respond_log_and_count_the_same(setup: str) -> None:
    """
    Except for the date. The long form compares 200,000 heads.
    """
    cases, hits = 0, 0
    for seed in range(amount(short=5, long=400)):
        chance = random.Random(f"{setup} {seed}")  # noqa: S311 nothing secret
        pair = Pair(setup, chance)
        converse(pair, chance, 100)
        pair.compare()
        cases, hits = cases + pair.requests, hits + pair.hits
    # The comparison compares something.
    assert hits > cases * 0.15, f"{hits} of {cases}"


def test_requests_split_at_any_byte_get_the_same_responses() -> None:
    """
    Also when their plans are known.
    """
    first_request = b"POST /next HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n"
    second_request = b"GET /current HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    stream = first_request + second_request
    servers = [Server(remembers=remembers) for remembers in (True, False)]
    for cut in range(len(stream) + 1):
        chunks = (first_request, second_request, stream[:cut], stream[cut:], second_request)
        answers = set()
        for server in servers:
            wire = server.connect()
            for chunk in filter(None, chunks):
                wire.send(chunk)
                wire.turns()
            wire.end()
            wire.turns()
            answers.add((wire.received, wire.closed))
            wire.lose()
        assert len(answers) == 1, cut
    assert servers[0].shared.requests.with_plan() > servers[0].shared.requests.without_plan


@pytest.mark.parametrize("setup", SETUPS)
def test_unknown_headers_change_nothing(setup: str) -> None:
    """
    A header that is not in the table makes no difference, in whatever place.

    This holds whether the request is recognized or parsed.
    """
    chance = random.Random(setup)  # noqa: S311 nothing secret
    for _ in range(amount(short=8, long=1000)):
        pairs = [Pair(setup, random.Random(setup)) for _ in range(2)]  # noqa: S311 no secret
        client = Client(chance)
        for _ in range(5):
            head = client.head()
            name = bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz-", k=12))
            assert name not in HEADERS
            lines = head.split(b"\r\n")
            lines.insert(chance.randint(1, len(lines) - 2), name + b": " + name)
            if b"\r\n folded" in head or len(head) > 8000:
                # The new line would end another header, or make the head too long.
                continue
            plain, more = (
                pair.ask(sent)
                for pair, sent in zip(pairs, (head, b"\r\n".join(lines)), strict=True)
            )
            assert undated(plain) == undated(more), (head, name)


SOURCES = Path(pexservice.__file__).parent


@pytest.mark.parametrize("room", ["web", "server"])
def test_only_one_module_reads_headers(room: str) -> None:
    """
    So nothing depends on a header that is not in its table.
    """
    for path in (SOURCES / room).rglob("*.py"):
        tree = ast.parse(path.read_text())
        allowed = {
            id(argument)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "headers_of"
            for argument in node.args
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert node.attr != "requestHeaders" or id(node) in allowed, path
                assert node.attr not in ("getHeader", "getAllHeaders", "getCookie"), path


def test_each_deciding_header_has_a_function_for_its_meaning() -> None:
    deciding = {name for name, use in HEADERS.items() if use & HeaderRole.DECIDES}
    assert set(Server().checker.deciding_headers()) == deciding

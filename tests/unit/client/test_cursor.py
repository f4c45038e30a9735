"""
A cursor whose steps are made once, whatever happens to their requests.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionLost, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as Refusal
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer

from pexservice.client import (
    CertificateRefused,
    Cursor,
    CursorError,
    Moved,
    OutcomeUnknown,
    Refused,
    State,
    Unanswered,
    UnexpectedAnswer,
)
from pexservice.core.sequence import term_at
from tests.support.fake_service import (
    JSON,
    Disturbance,
    FakeService,
    problem,
    state,
)

URL = "http://service.example"

TOKEN = "jqvXH2"  # noqa: S105 no token of anybody


@pytest.fixture
def service() -> FakeService:
    """
    Provide a service at revision 0.
    """
    return FakeService(Clock())


def cursor(service: FakeService, *urls: str, **options: Any) -> Cursor:
    return Cursor(
        *urls or (URL,), reactor=service.clock, **{"agent": service.agent, **options}
    )


def test_each_step_has_a_new_key_and_returns_the_state_after_it(
    service: FakeService,
) -> None:
    client = cursor(service)
    for position in (1, 2, 3):
        state = service.after(client.next())
        assert state == State(revision=position, position=position)
    assert (state.value, state.previous, state.next) == (2, 1, 3)
    state = service.after(client.previous())
    assert (state.revision, state.position, state.value) == (4, 2, 1)
    state = service.after(client.reset())
    assert (state.revision, state.position) == (5, 0)
    assert (state.value, state.previous, state.next) == (0, None, 1)
    assert service.after(client.current()) == state
    assert [request.path for request in service.asked[3:]] == [
        "/previous",
        "/reset",
        "/current",
    ]
    assert len(set(service.keys)) == 5
    assert "idempotency-key" not in service.asked[-1].headers


AGAIN = {
    "not taken": problem(503, "not-taken"),
    "outcome unknown, made": problem(503, "outcome-unknown", makes_step=True),
    "outcome unknown, not made": problem(503, "outcome-unknown"),
    "too many": problem(429, "too-many-requests"),
    "too slow": problem(408, "request-timeout"),
    "a proxy's 502": Disturbance(status=502, body=b"<html>", makes_step=True),
    "a proxy's 503": Disturbance(status=503, body=b"<html>"),
    "a proxy's 504": Disturbance(status=504, body=b"<html>", makes_step=True),
    "an error": problem(500, "internal-error", makes_step=True),
    "silence, made": Disturbance(silent=True, makes_step=True),
    "silence, not made": Disturbance(silent=True),
    "cut, made": Disturbance(cut=True, makes_step=True),
    "cut, not made": Disturbance(cut=True),
}


@pytest.mark.parametrize("name", AGAIN)
def test_step_without_a_final_response_is_repeated_with_its_key_and_made_once(
    service: FakeService, name: str
) -> None:
    service.disturbances = [AGAIN[name]] * 2
    state = service.after(cursor(service).next())
    assert (state.revision, state.position) == (1, 1)
    assert state.replayed == AGAIN[name].makes_step
    assert service.revision == 1
    assert len(service.keys) == 3
    assert len(set(service.keys)) == 1


@pytest.mark.parametrize("name", AGAIN)
def test_outcome_is_unknown_after_the_deadline_and_the_key_finds_it_out(
    service: FakeService, name: str
) -> None:
    service.always = AGAIN[name]
    client = cursor(service, deadline=20)
    surely_not_made = name in {"not taken", "too many"}
    words = "next was not made" if surely_not_made else "unknown whether next was made"
    with pytest.raises(OutcomeUnknown, match=words) as caught:
        service.after(client.next())
    assert caught.value.maybe_performed != surely_not_made
    assert 18 < service.clock.seconds() < 20.5
    key = caught.value.key
    assert key is not None
    assert (key in str(caught.value)) != surely_not_made
    assert {key} == set(service.keys)
    service.always = None
    state = service.after(client.next(key=key))
    assert (state.revision, state.position) == (1, 1)
    assert service.revision == 1


def test_read_without_a_response_is_unanswered_and_has_no_key(service: FakeService) -> None:
    service.always = Disturbance(silent=True)
    with pytest.raises(Unanswered, match="no final response within 7 s") as caught:
        service.after(cursor(service).current(deadline=7))
    assert not isinstance(caught.value, OutcomeUnknown)
    assert caught.value.key is None


def test_client_does_not_return_before_retry_after(service: FakeService) -> None:
    refusal = problem(429, "too-many-requests", headers={"Retry-After": "7"})
    service.disturbances = [refusal]
    service.after(cursor(service).next())
    first, second = service.asked
    assert 7 <= second.time - first.time < 8


def test_client_does_not_wait_beyond_its_deadline(service: FakeService) -> None:
    service.always = problem(429, "too-many-requests", headers={"Retry-After": "31"})
    with pytest.raises(
        OutcomeUnknown, match=r"asks to wait 31 s \(1 attempt\).*429: too-many"
    ):
        service.after(cursor(service).next())
    assert service.clock.seconds() < 1


@pytest.mark.parametrize(
    ("status", "name"),
    [
        *((400, "bad-request"), (401, "unauthorized"), (403, "cross-origin")),
        *((404, "not-found"), (405, "method-not-allowed"), (421, "misdirected-request")),
        *((413, "content-too-large"), (422, "key-reused")),
    ],
)
def test_refusal_is_not_repeated(service: FakeService, status: int, name: str) -> None:
    service.always = problem(status, name)
    with pytest.raises(Refused, match=f"{URL}/next: about {name}") as caught:
        service.after(cursor(service).next())
    assert (caught.value.status, caught.value.name) == (status, name)
    assert caught.value.key == service.keys[0]
    assert len(service.asked) == 1


def test_step_for_another_revision_raises_the_present_state(service: FakeService) -> None:
    client = cursor(service)
    for _ in range(7):
        service.after(client.next())
    assert service.after(client.next(if_revision=7)).position == 8
    with pytest.raises(Moved, match="revision 8, position 8") as caught:
        service.after(client.previous(if_revision=7))
    assert caught.value.state == State(revision=8, position=8)
    assert caught.value.state.value == 21
    assert service.revision == 8


def test_repeated_conditional_step_is_not_taken_for_a_conflict(
    service: FakeService,
) -> None:
    """
    The response to the first attempt was lost, and the cursor has moved since.
    """
    service.disturbances = [Disturbance(cut=True, makes_step=True)]
    state = service.after(cursor(service).next(if_revision=0))
    assert (state.revision, state.replayed) == (1, True)


REDIRECT = {"Location": "https://elsewhere.example/next"}


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (Disturbance(status=307, headers=REDIRECT), "307: redirects to 'https://elsewhere"),
        (Disturbance(status=302, headers=REDIRECT), "the client follows no redirect"),
        (Disturbance(status=404, body=b"<h1>no</h1>"), "status 404: '<h1>no</h1>'"),
        (Disturbance(status=413, body=b"nginx"), "got status 413: 'nginx'"),
        (
            Disturbance(status=401, body=b"{}", headers={"Content-Type": JSON}),
            "status 401",
        ),
        (Disturbance(status=204), "status 204"),
        (
            Disturbance(status=200, body=b"<html>", headers={"Content-Type": "text/html"}),
            "got text/html: '<html>'",
        ),
    ],
)
def test_response_of_another_service_is_an_error_and_not_repeated(
    service: FakeService, response: Disturbance, words: str
) -> None:
    """
    The request is not sent again, neither to the same server nor to another one.
    """
    service.always = response
    with pytest.raises(UnexpectedAnswer, match=re.escape(words)) as caught:
        service.after(cursor(service, token=TOKEN).next())
    assert str(caught.value).startswith(f"{URL}/next: expected ")
    assert TOKEN not in str(caught.value)
    assert len(service.asked) == 1


def body(**changes: object) -> bytes:
    """
    Return a state with C{changes} that make it wrong.
    """
    return json.dumps({**json.loads(state(7, 7)), **changes}).encode()


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"13\n", b"[]", b"null", b"{", b"\xff", b"[" * 100_000),
        *(b'{"current":"1"}', state(7, 7)[:-2]),
        *(body(current=13), body(current="13.0"), body(current="-1"), body(current="")),
        *(body(current=None), body(next="x"), body(previous=None), body(previous="²")),
        *(body(position=0), body(position=-1), body(position="7"), body(position=7.0)),
        *(body(revision=True), body(revision=None)),
        # More digits than the interpreter converts.
        body().replace(b'"revision": 7', b'"revision": ' + b"7" * 5000),
    ],
)
def test_state_that_cannot_be_read_is_an_error_and_no_reason_for_another_step(
    service: FakeService, body: bytes
) -> None:
    service.always = Disturbance(
        status=200, body=body, headers={"Content-Type": JSON}, makes_step=True
    )
    with pytest.raises(UnexpectedAnswer, match="expected") as caught:
        service.after(cursor(service).next())
    assert len(str(caught.value)) < 300
    assert caught.value.key == service.keys[0]
    assert service.revision == len(service.asked) == 1


@implementer(IAgent)
class Routed:
    """
    An agent that fails for the hosts that are down.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent
        self.down: dict[bytes, Callable[[], Exception]] = {}
        self.hosts: list[str] = []

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: Any = None,
    ) -> Deferred[Any]:
        """
        Send the request, unless its host is down; see L{IAgent}.
        """
        host = uri.split(b"/")[2]
        self.hosts.append(host.decode())
        if host in self.down:
            return fail(self.down[host]())
        sent: Deferred[Any] = self._agent.request(method, uri, headers, bodyProducer)
        return sent


def test_servers_are_tried_in_turn_beginning_with_the_last_that_responded(
    service: FakeService,
) -> None:
    routed = Routed(service.agent)
    routed.down[b"a"] = Refusal
    client = cursor(service, "http://a", "http://b", "http://c", agent=routed)
    service.after(client.next())
    assert routed.hosts == ["a", "b"]
    service.after(client.next())
    assert routed.hosts[2:] == ["b"]
    routed.down = {b"b": Refusal, b"c": Refusal}
    service.after(client.next())
    assert routed.hosts[3:] == ["b", "c", "a"]
    assert service.revision == len(set(service.keys)) == 3
    # Every server is tried before the delay grows.
    assert service.clock.seconds() < 1


def test_retry_after_of_one_server_does_not_delay_the_next(service: FakeService) -> None:
    service.disturbances = [problem(503, "not-taken", headers={"Retry-After": "20"})]
    service.after(cursor(service, "http://a", "http://b").next())
    assert service.clock.seconds() < 1


@pytest.mark.parametrize(
    ("name", "maybe_performed"), [("outcome-unknown", True), ("not-taken", False)]
)
def test_refused_certificate_does_not_hide_that_an_earlier_attempt_was_sent(
    service: FakeService, name: str, *, maybe_performed: bool
) -> None:
    reason = [("SSL routines", "", "certificate verify failed")]
    openssl_error = type("Error", (Exception,), {"__module__": "OpenSSL.SSL"})
    routed = Routed(service.agent)
    routed.down[b"b"] = lambda: ResponseNeverReceived([Failure(openssl_error(reason))])
    service.always = problem(503, name)
    with pytest.raises(CertificateRefused) as caught:
        service.after(cursor(service, "http://a", "http://b", agent=routed).next())
    assert caught.value.maybe_performed == maybe_performed


@pytest.mark.parametrize("maybe_performed", [True, False])
def test_refusal_does_not_hide_that_an_earlier_attempt_was_sent(
    service: FakeService, *, maybe_performed: bool
) -> None:
    first = "outcome-unknown" if maybe_performed else "not-taken"
    service.disturbances = [problem(503, first), problem(401, "unauthorized")]
    with pytest.raises(Refused) as caught:
        service.after(cursor(service).next())
    assert caught.value.maybe_performed == maybe_performed


def test_silent_servers_leave_time_for_the_last_one(service: FakeService) -> None:
    """
    Each server gets its share of a deadline that is too short for all timeouts.
    """
    service.disturbances = [Disturbance(silent=True)] * 2
    client = cursor(service, "http://a", "http://b", "http://c", timeout=10)
    assert service.after(client.next(deadline=6)).revision == 1
    first, second, third = (request.time for request in service.asked)
    assert 2 <= second - first < 2.1
    assert 2 <= third - second < 2.1


def test_cancelled_call_sends_nothing_more(service: FakeService) -> None:
    """
    It waits for a response, or for the delay between two attempts.
    """
    for disturbance in (Disturbance(silent=True), problem(503, "not-taken")):
        service.always = disturbance
        asked = len(service.asked)
        call = Deferred.fromCoroutine(cursor(service).next())
        ended: list[Any] = []
        call.addErrback(lambda failure, to: to.append(failure.type), ended)
        call.cancel()
        for _ in range(100):
            service.clock.advance(1)
            service.agent.flush()
        assert ended == [CancelledError]
        assert len(service.asked) == asked + 1


@pytest.mark.parametrize("error", [DNSLookupError, Refusal, ConnectionLost])
def test_cancelled_call_ends_with_cancelled_error_whatever_its_request_does(
    service: FakeService, error: Callable[[], Exception]
) -> None:
    """
    A cancelled look-up of a name, for example, fails as if there were no such name.
    """
    asked = []

    @implementer(IAgent)
    class Stopped:
        """
        An agent whose cancelled requests end with its own error.
        """

        def request(self, *_: object, **__: object) -> Deferred[Any]:
            """
            Return a C{Deferred} that fires only when it is cancelled.
            """
            asked.append(1)
            return Deferred(lambda request: request.errback(error()))

    call = Deferred.fromCoroutine(cursor(service, agent=Stopped()).next())
    ended: list[Any] = []
    call.addErrback(lambda failure: ended.append(failure.type))
    call.cancel()
    for _ in range(100):
        service.clock.advance(1)
    assert ended == [CancelledError]
    assert asked == [1]


def test_unexpected_exception_is_not_retried(service: FakeService) -> None:
    routed = Routed(service.agent)
    routed.down[b"a"] = lambda: ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        service.after(cursor(service, "http://a", agent=routed).next())
    assert len(routed.hosts) == 1


def test_error_has_the_last_reason_on_one_line(service: FakeService) -> None:
    routed = Routed(service.agent)
    routed.down[b"a"] = lambda: ResponseNeverReceived([])
    routed.down[b"b"] = lambda: Refusal("nobody\nthere")
    with pytest.raises(Unanswered, match=r"http://[ab]/current: ") as caught:
        service.after(cursor(service, "http://a", "http://b", agent=routed).current())
    assert "\n" not in str(caught.value)


def test_step_of_which_no_attempt_got_a_connection_was_not_made(
    service: FakeService,
) -> None:
    routed = Routed(service.agent)
    routed.down = {b"a": Refusal, b"b": DNSLookupError}
    client = cursor(service, "http://a", "http://b", agent=routed, deadline=2)
    with pytest.raises(OutcomeUnknown, match="next was not made by this call: ") as caught:
        service.after(client.next())
    assert not caught.value.maybe_performed
    # One attempt that may have arrived is enough for doubt.
    routed.down = {b"a": Refusal, b"b": ConnectionLost}
    with pytest.raises(OutcomeUnknown, match="unknown whether next was made") as caught:
        service.after(client.next())
    assert caught.value.maybe_performed


def test_step_that_was_refused_each_time_was_not_made(service: FakeService) -> None:
    """
    Some problems say that the step was not made, and others do not.
    """
    service.always = problem(503, "not-taken")
    with pytest.raises(OutcomeUnknown, match="next was not made by this call: ") as caught:
        service.after(cursor(service, deadline=2).next())
    assert not caught.value.maybe_performed
    service.disturbances = [problem(503, "outcome-unknown")]
    with pytest.raises(OutcomeUnknown, match="unknown whether next was made") as caught:
        service.after(cursor(service, deadline=2).next())
    assert caught.value.maybe_performed


@pytest.mark.parametrize(
    ("disturbance", "performed_nothing"),
    [
        (problem(503, "not-taken"), True),
        (problem(503, "outcome-unknown"), False),
        (Disturbance(silent=True), False),
        (Disturbance(cut=True), False),
    ],
)
def test_closed_cursor_knows_whether_a_cancelled_step_may_have_arrived(
    service: FakeService, disturbance: Disturbance, *, performed_nothing: bool
) -> None:
    service.always = disturbance
    client = cursor(service)
    call = Deferred.fromCoroutine(client.next())
    service.agent.flush()
    call.addErrback(lambda failure: failure.trap(CancelledError))
    call.cancel()
    # Before it is closed, another attempt may begin.
    assert not client.performed_nothing
    Deferred.fromCoroutine(client.close())
    assert client.performed_nothing == performed_nothing


def test_cursor_whose_connections_were_refused_has_performed_nothing(
    service: FakeService,
) -> None:
    routed = Routed(service.agent)
    routed.down = {b"a": Refusal, b"b": DNSLookupError}
    client = cursor(service, "http://a", "http://b", agent=routed)
    call = Deferred.fromCoroutine(client.next())
    service.clock.pump([0.1] * 20)
    assert len(routed.hosts) > 2
    call.addErrback(lambda failure: failure.trap(CancelledError))
    call.cancel()
    Deferred.fromCoroutine(client.close())
    assert client.performed_nothing


class StrictClock(Clock):
    """
    A clock that refuses a negative delay, like a reactor.
    """

    def callLater(self, delay: float, *args: Any, **kwargs: Any) -> Any:
        assert delay >= 0
        return super().callLater(delay, *args, **kwargs)


def test_delay_that_lasts_longer_than_planned_ends_with_the_deadline() -> None:
    """
    A busy machine may call the client back only after its deadline.
    """
    service = FakeService(StrictClock())
    service.always = problem(503, "not-taken")
    ended: list[Any] = []
    Deferred.fromCoroutine(cursor(service, deadline=0.1).next()).addBoth(ended.append)
    service.agent.flush()
    service.clock.advance(5)
    service.agent.flush()
    service.clock.advance(5)
    (failure,) = ended
    assert failure.check(OutcomeUnknown)


def test_on_retry_is_called_for_each_attempt_that_is_repeated(service: FakeService) -> None:
    service.disturbances = [problem(503, "not-taken"), problem(429, "too-many-requests")]
    reasons: list[str] = []
    service.after(cursor(service, on_retry=reasons.append).next())
    assert reasons == [
        f"{URL}/next: status 503: not-taken: about not-taken",
        f"{URL}/next: status 429: too-many-requests: about too-many-requests",
    ]


def test_detail_of_a_problem_is_printable_and_cut(service: FakeService) -> None:
    body = {
        "type": "urn:problem-type:pexservice:cross-origin",
        "detail": "\x1b]0;owned\x07 one\ntwo \u202ethree " + "x" * 10_000,
    }
    service.always = Disturbance(
        status=403,
        headers={"Content-Type": "application/problem+json"},
        body=json.dumps(body).encode(),
    )
    with pytest.raises(Refused) as caught:
        service.after(cursor(service).next())
    assert str(caught.value).isprintable()
    assert r": \x1b]0;owned\x07 one two \u202ethree xxx" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_attempt_cut_short_by_the_deadline_does_not_hide_the_reason_before(
    service: FakeService,
) -> None:
    service.disturbances = [problem(503, "not-taken")]
    service.always = Disturbance(silent=True)
    with pytest.raises(Unanswered, match=r"\(2 attempts\): .*about not-taken"):
        service.after(cursor(service).current(deadline=1))


def test_values_are_exact_beyond_the_interpreters_limit(service: FakeService) -> None:
    """
    The interpreter's limit stays as it was.
    """
    service.position = 30_000
    before = sys.get_int_max_str_digits()
    state = service.after(cursor(service).next())
    term = term_at(30_001)
    assert len(state.digits) > before
    assert state.digits == term.text.decode()
    assert state.value == int(term.value)
    assert state.previous == int(term_at(30_000).value)
    assert state.next == int(term.following)
    assert sys.get_int_max_str_digits() == before
    # Values are not for logs.
    assert len(repr(state)) < 100


def test_token_is_sent_with_every_request(service: FakeService) -> None:
    client = cursor(service, token=TOKEN)
    service.after(client.next())
    service.after(client.current())
    assert {request.headers["authorization"] for request in service.asked} == {
        f"Bearer {TOKEN}"
    }


def test_history_reads_pages_as_they_are_needed(service: FakeService) -> None:
    """
    The client reads no page beyond the steps that the program takes.
    """
    for _ in range(2500):
        service.step("next")

    async def read(**which: int) -> list[int]:
        return [step.revision async for step in cursor(service).history(**which)]

    assert service.after(read) == list(range(2500, 0, -1))
    assert len(service.asked) == 3
    assert service.after(lambda: read(limit=1001)) == list(range(2500, 1499, -1))
    assert len(service.asked) == 5
    assert service.after(lambda: read(before=3)) == [2, 1]
    assert service.after(lambda: read(before=3, limit=1)) == [2]
    assert service.after(lambda: read(limit=0)) == []
    assert len(service.asked) == 7


@pytest.mark.parametrize(
    "body",
    [
        *(b"{}", b'{"transitions":7,"next":null}', b'{"transitions":[{}],"next":null}'),
        b'{"transitions":[{"revision":2,"position":1,"transition":"sing",'
        b'"time":"2026-11-24T11:50:19Z"}],"next":null}',
        # Such a page leads to itself, so the history would never end.
        b'{"transitions":[{"revision":2,"position":1,"transition":"next",'
        b'"time":"2026-11-24T11:50:19Z"}],"next":"/history"}',
    ],
)
def test_page_that_contradicts_itself_is_an_error(
    service: FakeService, body: bytes
) -> None:
    service.always = Disturbance(status=200, body=body, headers={"Content-Type": JSON})

    async def read() -> None:
        async for _ in cursor(service).history():
            pass

    with pytest.raises(UnexpectedAnswer, match="expected "):
        service.after(read)


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256])
def test_key_that_no_service_accepts_is_not_sent(service: FakeService, key: str) -> None:
    with pytest.raises(CursorError, match="1 to 255 visible ASCII"):
        service.after(cursor(service).next(key=key))
    assert not service.asked


def test_closed_client_sends_nothing(service: FakeService) -> None:

    async def use() -> Cursor:
        async with cursor(service) as client:
            await client.next()
        return client

    client = service.after(use)
    with pytest.raises(CursorError, match="closed"):
        service.after(client.next())
    assert len(service.asked) == 1


def test_step_that_was_sent_before_the_client_was_closed_is_of_unknown_outcome(
    service: FakeService,
) -> None:
    service.always = problem(503, "outcome-unknown", headers={"Retry-After": "5"})
    client = cursor(service)
    ended: list[Any] = []
    Deferred.fromCoroutine(client.next()).addBoth(ended.append)
    service.agent.flush()
    Deferred.fromCoroutine(client.close())
    service.clock.advance(6)
    (failure,) = ended
    assert failure.check(OutcomeUnknown)
    assert failure.value.maybe_performed

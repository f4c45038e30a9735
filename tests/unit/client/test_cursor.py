"""
A cursor whose steps are made once, whatever happens to their requests.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionLost, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as Refusal
from twisted.internet.task import Clock
from twisted.web.iweb import IAgent
from zope.interface import implementer

from pexservice.client import (
    BadAddress,
    Cursor,
    CursorError,
    OutcomeUnknown,
    Refused,
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
    calls = (client.next, client.next, client.next, client.previous, client.reset)
    states = [service.after(call()) for call in calls]
    assert [(state.revision, state.position) for state in states] == [
        *((1, 1), (2, 2), (3, 3), (4, 2), (5, 0))
    ]
    assert (states[4].value, states[4].previous, states[4].next) == (0, None, 1)
    assert service.after(client.current()) == states[4]
    paths = ["/next"] * 3 + ["/previous", "/reset", "/current"]
    assert [request.path for request in service.asked] == paths
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
def test_step_is_repeated_until_its_deadline_and_its_key_finds_the_outcome_out(
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
    assert len(service.keys) > 1
    service.disturbances = [AGAIN[name]]
    service.always = None
    state = service.after(client.next(key=key))
    assert {key} == set(service.keys)
    assert (state.revision, state.position) == (1, 1)
    assert state.replayed == AGAIN[name].makes_step
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
    words = r"asks to wait at least 31 s \(1 attempt\).*429: too-many"
    with pytest.raises(OutcomeUnknown, match=words):
        service.after(cursor(service).next())
    assert service.clock.seconds() < 1


@pytest.mark.parametrize(
    ("status", "name"),
    [(400, "bad-request"), (401, "unauthorized"), (421, "misdirected-request")],
)
def test_refusal_is_not_repeated(service: FakeService, status: int, name: str) -> None:
    service.always = problem(status, name)
    with pytest.raises(Refused, match=f"{URL}/next: about {name}") as caught:
        service.after(cursor(service).next())
    assert (caught.value.status, caught.value.name) == (status, name)
    assert caught.value.key == service.keys[0]
    assert len(service.asked) == 1


REDIRECT = {"Location": "https://elsewhere.example/next"}
HTML = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (
            Disturbance(status=307, headers=REDIRECT),
            "307: redirects to 'https://elsewhere.example/next'; the client follows no",
        ),
        (Disturbance(status=404, body=b"<h1>no</h1>"), "status 404: '<h1>no</h1>'"),
        (problem(401, "unauthorized", headers={"Content-Type": JSON}), "status 401"),
        (Disturbance(status=204), "status 204"),
        (Disturbance(status=200, body=b"<html>", headers=HTML), "got text/html: '<html>'"),
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


def failing(error: Callable[[], Exception]) -> Callable[[], Deferred[Any]]:
    return lambda: fail(error())


def failing_when_cancelled(error: Callable[[], Exception]) -> Callable[[], Deferred[Any]]:
    return lambda: Deferred(lambda request: request.errback(error()))


@implementer(IAgent)
class Routed:
    """
    An agent that fails for the hosts that are down.

    @ivar down: by host, a function that returns the request, instead of sending it.
    @ivar hosts: the hosts of all requests.
    """

    def __init__(self, agent: IAgent, **errors: Callable[[], Exception]) -> None:
        self._agent = agent
        self.down = {host: failing(error) for host, error in errors.items()}
        self.hosts: list[str] = []

    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None
    ) -> Deferred[Any]:
        """
        Send the request, unless its host is down; see L{IAgent}.
        """
        host = uri.decode().split("/")[2]
        self.hosts.append(host)
        if host in self.down:
            return self.down[host]()
        return cast(Deferred[Any], self._agent.request(method, uri, headers, bodyProducer))


def test_servers_are_tried_in_turn_beginning_with_the_last_that_responded(
    service: FakeService,
) -> None:
    routed = Routed(service.agent, a=Refusal)
    client = cursor(service, "http://a", "http://b", "http://c", agent=routed)
    service.after(client.next())
    assert routed.hosts == ["a", "b"]
    service.after(client.next())
    assert routed.hosts[2:] == ["b"]
    routed.down = dict.fromkeys("bc", failing(Refusal))
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
@pytest.mark.parametrize(
    "refusal",
    [
        problem(401, "unauthorized"),
        problem(503, "not-taken"),
        failing(lambda: ValueError("invalid hostname: b")),
    ],
)
def test_last_failure_does_not_hide_that_an_earlier_attempt_was_sent(
    service: FakeService, name: str, refusal: Any, *, maybe_performed: bool
) -> None:
    service.disturbances = [problem(503, name)]
    routed = Routed(service.agent)
    if isinstance(refusal, Disturbance):
        service.always = refusal
    else:
        routed.down["b"] = refusal
    client = cursor(service, "http://a", "http://b", agent=routed, deadline=2)
    with pytest.raises(CursorError) as caught:
        service.after(client.next())
    assert caught.value.key == service.keys[0]
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


def test_unexpected_exception_is_not_retried(service: FakeService) -> None:
    routed = Routed(service.agent, a=lambda: ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        service.after(cursor(service, "http://a", agent=routed).next())
    assert len(routed.hosts) == 1


@pytest.mark.parametrize("error", [ConnectionLost, DNSLookupError])
def test_step_was_not_made_only_if_no_attempt_got_a_connection(
    service: FakeService, error: Callable[[], Exception]
) -> None:
    routed = Routed(service.agent, a=Refusal, b=error)
    with pytest.raises(OutcomeUnknown) as caught:
        service.after(
            cursor(service, "http://a", "http://b", agent=routed, deadline=2).next()
        )
    assert caught.value.maybe_performed == (error is ConnectionLost)
    unknown = "unknown whether next was made" in str(caught.value)
    assert unknown == caught.value.maybe_performed


@pytest.mark.parametrize(
    ("disturbance", "performed_nothing"),
    [
        (failing(Refusal), True),
        (failing(DNSLookupError), True),
        # A cancelled look-up of a name fails as if there were no such name.
        (failing_when_cancelled(DNSLookupError), False),
        (failing_when_cancelled(Refusal), False),
        (failing_when_cancelled(ConnectionLost), False),
        (problem(503, "not-taken"), True),
        (problem(503, "outcome-unknown"), False),
        (Disturbance(silent=True), False),
        (Disturbance(cut=True), False),
    ],
)
def test_cancelled_step_sends_nothing_more_and_its_cursor_knows_if_it_may_have_arrived(
    service: FakeService, disturbance: Any, *, performed_nothing: bool
) -> None:
    routed = Routed(service.agent)
    if isinstance(disturbance, Disturbance):
        service.always = disturbance
    else:
        routed.down["a"] = disturbance
    client = cursor(service, "http://a", agent=routed)
    call = Deferred.fromCoroutine(client.next())
    service.agent.flush()
    ended: list[Any] = []
    call.addErrback(lambda failure: ended.append(failure.type))
    call.cancel()
    service.clock.pump([1] * 100)
    service.agent.flush()
    assert ended == [CancelledError]
    assert len(routed.hosts) == 1
    # Before it is closed, another attempt may begin.
    assert not client.performed_nothing
    Deferred.fromCoroutine(client.close())
    assert client.performed_nothing == performed_nothing


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


@pytest.mark.parametrize("silent_host", ["a", "b"])
def test_error_names_the_server_that_may_have_made_the_step(
    service: FakeService, silent_host: str
) -> None:
    service.always = Disturbance(silent=True)
    other_host = "b" if silent_host == "a" else "a"
    routed = Routed(service.agent, **{other_host: Refusal})
    client = cursor(service, "http://a", "http://b", agent=routed, timeout=0.6)
    with pytest.raises(OutcomeUnknown, match=f"http://{silent_host}/next: no response"):
        service.after(client.next(deadline=1))


@pytest.mark.parametrize(
    ("name", "number"),
    [("deadline", float("nan")), ("deadline", 0), ("timeout", 0), ("connections", -1)],
)
def test_number_that_is_not_positive_is_refused_and_named(
    service: FakeService, name: str, number: float
) -> None:
    with pytest.raises(ValueError, match=f"{name} must be more than 0, not {number}"):
        cursor(service, **{name: number})


def test_values_are_exact_beyond_the_interpreters_limit(service: FakeService) -> None:
    service.position = 30_000
    state = service.after(cursor(service).next())
    term = term_at(30_001)
    digits = sys.get_int_max_str_digits()
    assert len(state.digits) > digits
    assert state.digits == term.text.decode()
    # A program may lower the limit, to no less than 640 digits.
    sys.set_int_max_str_digits(640)
    try:
        assert (state.value, state.next) == (int(term.value), int(term.following))
    finally:
        sys.set_int_max_str_digits(digits)
    assert state.previous == int(term_at(30_000).value)
    # Values are not for logs.
    assert len(repr(state)) < 100


def history(service: FakeService, **which: int) -> list[int]:
    """
    Return the revisions in the history.
    """

    async def read() -> list[int]:
        return [step.revision async for step in cursor(service).history(**which)]

    return service.after(read)


def test_history_reads_pages_as_they_are_needed(service: FakeService) -> None:
    """
    The client reads no page beyond the steps that the program takes.
    """
    for _ in range(2500):
        service.step("next")
    assert history(service) == list(range(2500, 0, -1))
    assert len(service.asked) == 3
    assert history(service, limit=1001) == list(range(2500, 1499, -1))
    assert len(service.asked) == 5
    assert history(service, before=3) == [2, 1]
    assert history(service, before=3, limit=1) == [2]
    assert history(service, limit=0) == []
    assert len(service.asked) == 7


def test_empty_page_ends_the_history_whatever_it_announces(service: FakeService) -> None:
    service.always = Disturbance(
        status=200,
        body=b'{"transitions":[],"next":"/history"}',
        headers={"Content-Type": JSON},
    )
    assert history(service) == []


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
    with pytest.raises(UnexpectedAnswer, match="expected "):
        history(service)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(({"key": key}, "1 to 255 visible ASCII") for key in ("", "a b", "é", "x" * 256)),
        ({"deadline": float("nan")}, "deadline must be more than 0, not nan"),
    ],
)
def test_wrong_argument_of_a_call_is_refused_and_nothing_is_sent(
    service: FakeService, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadAddress, match=words):
        service.after(cursor(service).next(**arguments))
    assert not service.asked


@pytest.mark.parametrize(
    "call", [Cursor.next, lambda client: anext(client.watch(), None)], ids=["next", "watch"]
)
def test_closed_client_sends_nothing(service: FakeService, call: Any) -> None:

    async def use() -> None:
        async with cursor(service) as client:
            pass
        await call(client)

    with pytest.raises(CursorError, match="closed"):
        service.after(use)
    assert not service.asked


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

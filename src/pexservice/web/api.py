"""
The resource tree.

Two layers.  What the L{Guard} lets through goes to the Klein tree of L{Api}, whose
handlers return an answer or raise a L{Problem}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NoReturn, cast

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from pexservice.commit.interface import ICommitter
from pexservice.commit.requests import KeyReused, Move, Outcome, Result
from pexservice.core.cursor import State, Transition
from pexservice.stores.interface import NotTaken, OutcomeUnknown, Row
from pexservice.web import problems
from pexservice.web.access import Access
from pexservice.web.endpoints import TABLE, Table
from pexservice.web.events import Events
from pexservice.web.guard import Guard
from pexservice.web.hosts import HostPolicy
from pexservice.web.meaning import Meaning, means
from pexservice.web.negotiation import best_of
from pexservice.web.pacing import Later, Pacing
from pexservice.web.page import page
from pexservice.web.parameters import accept, conditions, key_of, number, query
from pexservice.web.preconditions import Tags, parse_tags
from pexservice.web.problems import Problem
from pexservice.web.replies import HTML, JSON, TEXT, Header, Reply
from pexservice.web.representations import (
    chosen,
    history_reply,
    state_headers,
    state_reply,
)
from pexservice.web.throttle import RateLimit

_log = Logger()

_DEFAULT_ROWS = 100
_MOST_ROWS = 1000


class Api:
    """
    The Klein tree over one committer.
    """

    app: ClassVar[Klein] = Klein()

    def __init__(
        self,
        committer: ICommitter,
        access: Access,
        events: Events,
        limit: RateLimit | None = None,
        *,
        hosts: HostPolicy | None = None,
        table: Table = TABLE,
        later: Later | None = None,
        scrape: Callable[[Sequence[bytes] | None], Reply] | None = None,
    ) -> None:
        """
        @param hosts: decides which C{Host} is answered; L{None} to answer any.
        @param table: the endpoints that there are.
        @param scrape: told the C{Accept} values of who wants the metrics, says them;
            without it there are none.
        @param later: the reactor's C{callLater}, to make pages of the history
            one by one.
        """
        self._committer = committer
        self._pages = Pacing(later)
        self._scrape = scrape
        self._access = access
        self._events = events
        self._page_for_browsers = page()
        self._limit = limit
        self._hosts = hosts
        self._table = table

    def resource(self) -> Resource:
        """
        The whole tree.
        """
        return Guard(
            self.app.resource(), self._access, self._limit, self._hosts, self._table
        )

    @app.handle_errors(Problem)
    def _problem(self, request: IRequest, failure: Failure) -> bytes:
        return _refuse(request, cast(Problem, failure.value))

    @app.handle_errors(Exception)
    def _bug(self, request: IRequest, failure: Failure) -> bytes:
        _log.failure("{method} failed", failure=failure, method=request.method)
        return _refuse(request, problems.our_fault())

    @app.route("/")
    def index(self, request: IRequest) -> bytes:
        """
        What there is, and for browsers the live page.
        """
        kind = best_of((TEXT, JSON, HTML), accept(request))
        if kind == HTML:
            _, if_none_match = conditions(request)
            return self._page_for_browsers.reply(if_none_match).apply(request)
        headers: tuple[Header, ...] = (
            (
                b"Content-Type",
                b"application/json" if kind == JSON else b"text/plain; charset=utf-8",
            ),
            (b"Vary", b"Accept"),
        )
        table = self._table
        body = table.json_index if kind == JSON else table.text_index
        return Reply(200, headers, body).apply(request)

    @app.route("/current")
    def current(self, request: IRequest) -> Deferred[bytes]:
        """
        The value at the cursor.
        """
        representation = chosen(accept(request))

        def seen(state: State) -> bytes:
            known = self._known(request, state)
            if known is None:
                if request.method == b"GET":
                    self._means(request, Meaning.CURRENT, representation)
                known = state_reply(state, representation)
            return known.apply(request)

        return self._committer.read_current().addCallbacks(seen, _explain)

    def _means(self, request: IRequest, meaning: Meaning, representation: str) -> None:
        """
        Say so, if nothing else in C{request} counted.
        """
        raw = request.requestHeaders.hasHeader
        conditional = raw(b"if-match") or raw(b"if-none-match")
        move = meaning is not Meaning.CURRENT
        if representation == TEXT and not (conditional or self._access.counts(move=move)):
            means(request, meaning)

    def _known(self, request: IRequest, state: State) -> Reply | None:
        """
        @return: 304, if a read's preconditions say that its caller knows the answer.
        @raise Problem: 412, if they say that it does not want it; 503, if the cursor
            could not be read.
        """
        self._check_read()
        if_match, if_none_match = conditions(request)
        present = state_headers(state, chosen(accept(request)))
        if if_match is not None and not if_match.match_strongly(state):
            raise problems.unmet_precondition(present)
        if if_none_match is not None and if_none_match.match_weakly(state):
            return Reply(304, present)
        return None

    def _check_read(self) -> None:
        """
        @raise Problem: the cursor could not be read.
        """
        unread = self._committer.unread
        if unread is not None:
            raise problems.not_taken(str(unread))

    @app.route("/next", methods=["GET", "POST"])
    def next(self, request: IRequest) -> Deferred[bytes]:
        """
        One up.
        """
        return self._move(request, Transition.NEXT)

    @app.route("/previous", methods=["GET", "POST"])
    def previous(self, request: IRequest) -> Deferred[bytes]:
        """
        One down.
        """
        return self._move(request, Transition.PREVIOUS)

    @app.route("/reset", methods=["GET", "POST"])
    def reset(self, request: IRequest) -> Deferred[bytes]:
        """
        Back to 0.
        """
        return self._move(request, Transition.RESET)

    def _move(self, request: IRequest, transition: Transition) -> Deferred[bytes]:
        self._access.check_move(request)
        key = key_of(request)
        if_match, if_none_match = conditions(request)
        representation = chosen(accept(request))

        def moved(outcome: Outcome) -> bytes:
            if outcome.result is Result.PRECONDITION_FAILED:
                return self._unmet(request, outcome, if_match, representation)
            replayed: list[Header] = []
            if outcome.result is Result.REPLAYED:
                replayed.append((b"Idempotency-Replayed", b"true"))
            return state_reply(outcome.state, representation, *replayed).apply(request)

        if key is None:
            self._means(request, Meaning(transition), representation)
        move = Move(transition, key, _condition(if_match, if_none_match))
        return self._committer.submit(move).addCallbacks(moved, _explain)

    def _unmet(
        self,
        request: IRequest,
        outcome: Outcome,
        if_match: Tags | None,
        representation: str,
    ) -> bytes:
        present = state_headers(outcome.state, representation)
        # RFC 9110 13.1.2: an If-None-Match that is not met is a 304 for GET.
        by_match = if_match is not None and not if_match.match_strongly(outcome.state)
        if request.method == b"GET" and not by_match:
            return Reply(304, present).apply(request)
        raise problems.unmet_precondition(present)

    @app.route("/history")
    def history(self, request: IRequest) -> Deferred[bytes]:
        """
        The latest transitions.
        """
        limit = number(request, "limit", 1, _MOST_ROWS)
        before = number(request, "before", 1, None)
        rows_wanted = _DEFAULT_ROWS if limit is None else limit
        return self._pages.run(lambda: self._page(request, before, rows_wanted))

    def _page(
        self, request: IRequest, before: int | None, rows_wanted: int
    ) -> Deferred[bytes]:
        # The rows are those on disk, whatever readers of the cursor are shown.
        return self._committer.read_durable().addCallbacks(
            lambda state: self._page_at(request, state, before, rows_wanted), _explain
        )

    def _page_at(
        self, request: IRequest, state: State, before: int | None, rows_wanted: int
    ) -> Deferred[bytes] | bytes:
        known = self._known(request, state)
        if known is not None:
            return known.apply(request)
        newest = state.revision + 1
        before = newest if before is None else min(before, newest)

        def found(rows: list[Row]) -> bytes:
            following = None
            # One more than was wanted was asked for, to see whether there is one.
            if len(rows) > rows_wanted:
                del rows[rows_wanted:]
                following = f"/history?before={rows[-1].revision}&limit={rows_wanted}"
            reply = history_reply(state, chosen(accept(request)), rows, following)
            return reply.apply(request)

        return self._committer.history(before, rows_wanted + 1).addCallbacks(
            found, _explain
        )

    @app.route("/events")
    def events(self, request: IRequest) -> Deferred[bytes]:
        """
        The cursor whenever it moves.
        """
        self._access.check_watch(request)
        self._check_read()
        return self._events.open(cast(Request, request))

    @app.route("/livez")
    def livez(self, request: IRequest) -> bytes:
        """
        Who can answer this is alive.
        """
        return _health(request, "livez", {"reactor": None})

    @app.route("/readyz")
    def readyz(self, request: IRequest) -> bytes:
        """
        Would a step be taken?
        """
        refusal = self._committer.refusal
        return _health(
            request, "readyz", {"store": None if refusal is None else str(refusal)}
        )

    @app.route("/metrics")
    def metrics(self, request: IRequest) -> bytes:
        """
        What is counted.
        """
        if self._scrape is None:
            raise problems.no_such_path(map(bytes.decode, self._table.by_path))
        return self._scrape(accept(request)).apply(request)

    @app.route("/openapi.json")
    def openapi(self, request: IRequest) -> bytes:
        """
        The description of all this.
        """
        # Most workers are never asked for it.
        from pexservice.web.openapi import rendered  # noqa: PLC0415

        body, tag = rendered(self._table.endpoints)
        headers = ((b"ETag", b'"%b"' % tag.encode()), (b"Cache-Control", b"no-cache"))
        known = request.requestHeaders.getRawHeaders(b"if-none-match")
        if_none_match = parse_tags("If-None-Match", known)
        if if_none_match is not None and if_none_match.name(tag):
            return Reply(304, headers).apply(request)
        content_type = (b"Content-Type", JSON.encode())
        return Reply(200, (content_type, *headers), body).apply(request)


def _health(request: IRequest, name: str, checks: dict[str, str | None]) -> bytes:
    """
    Kubernetes' conventions: C{ok}, or each check on a line.

    @param checks: by name, why it fails, if it does.
    """
    failing = [reason for reason in checks.values() if reason is not None]
    if "verbose" in query(request) or failing:
        lines = [
            f"[+]{check} ok" if reason is None else f"[-]{check} failed: {reason}"
            for check, reason in checks.items()
        ]
        outcome = "failed" if failing else "passed"
        body = "\n".join([*lines, f"{name} check {outcome}", ""])
    else:
        body = "ok\n"
    headers = (
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Cache-Control", b"no-store"),
    )
    return Reply(503 if failing else 200, headers, body.encode()).apply(request)


def _explain(failure: Failure) -> NoReturn:
    """
    The committer's refusals as problems; a bug stays one.
    """
    if failure.check(KeyReused, NotTaken, OutcomeUnknown):
        raise problems.of_refusal(failure.value)
    failure.raiseException()


def _refuse(request: IRequest, problem: Problem) -> bytes:
    return problem.reply(accept(request)).apply(request)


def _condition(
    if_match: Tags | None, if_none_match: Tags | None
) -> Callable[[State], bool] | None:
    if if_match is None and if_none_match is None:
        return None

    def met(state: State) -> bool:
        return (if_match is None or if_match.match_strongly(state)) and (
            if_none_match is None or not if_none_match.match_weakly(state)
        )

    return met

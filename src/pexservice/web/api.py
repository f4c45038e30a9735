"""
The Klein tree: one handler for each endpoint, which says what a request means.

A handler only makes an operation; L{Performer<pexservice.web.performer.Performer>} performs
it.  A bug in a handler is answered by the request's C{processingFailed}, as Klein has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, cast

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from pexservice.commit.interface import ICommitter
from pexservice.core.cursor import Transition
from pexservice.web.endpoints import TABLE, Table
from pexservice.web.events import Events
from pexservice.web.guard import Guard, OperationResource
from pexservice.web.negotiation import best_of
from pexservice.web.operations import WATCH, ISender, kind_of_read
from pexservice.web.pacing import Later, Pacing
from pexservice.web.page import page
from pexservice.web.parameters import (
    ACCEPT,
    FORWARDED_FOR,
    IF_NONE_MATCH,
    LAST_EVENT_ID,
    Arguments,
    conditions,
    number,
    preferences,
    query,
)
from pexservice.web.performer import Performer
from pexservice.web.preconditions import parse_tags
from pexservice.web.replies import HTML, JSON, TEXT, TYPES, Reply
from pexservice.web.representations import VALUE, history_reply, state_reply

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
        performer: Performer,
        events: Events,
        *,
        table: Table = TABLE,
        later: Later,
        scrape: Callable[[Sequence[bytes] | None], Reply],
        last_reload: Callable[[], str | None] = lambda: None,
    ) -> None:
        """
        Make the tree over C{committer}, with the endpoints in C{table}.

        @param table: the endpoints that there are.
        @param scrape: given C{Accept} values, returns the metrics.
        @param last_reload: returns what came of the last reload, if there was one.
        @param later: the reactor's C{callLater}, to make pages of the history one by one.
        """
        self._committer = committer
        self._performer = performer
        self._operation = partial(OperationResource, performer)
        self._pages = Pacing(later)
        self._scrape = scrape
        self._last_reload = last_reload
        self._events = events
        self._page_for_browsers = page()
        self._table = table

    def resource(self) -> Resource:
        """
        Return the whole tree, behind its guard.
        """
        return Guard(self.app.resource(), self._performer, self._table)

    @app.route("/")
    def index(self, request: IRequest) -> OperationResource:
        """
        Describe the endpoints; for browsers, show the live page.
        """
        return self._operation(request, work=self._index)

    @app.route("/current")
    def current(self, request: IRequest) -> OperationResource:
        """
        Read the value at the cursor.
        """
        return self._operation(request)

    @app.route("/next", methods=["GET", "POST"])
    def next(self, request: IRequest) -> OperationResource:
        """
        Move the cursor one up.
        """
        return self._operation(request, transition=Transition.NEXT)

    @app.route("/previous", methods=["GET", "POST"])
    def previous(self, request: IRequest) -> OperationResource:
        """
        Move the cursor one down.
        """
        return self._operation(request, transition=Transition.PREVIOUS)

    @app.route("/reset", methods=["GET", "POST"])
    def reset(self, request: IRequest) -> OperationResource:
        """
        Move the cursor back to 0.
        """
        return self._operation(request, transition=Transition.RESET)

    @app.route("/history")
    def history(self, request: IRequest) -> OperationResource:
        """
        List the latest transitions.
        """
        return self._operation(request, work=partial(self._history, request))

    @app.route("/events")
    def events(self, request: IRequest) -> OperationResource:
        """
        Tell where the cursor is whenever it moves.
        """
        work = partial(self._stream, cast(Request, request))
        return self._operation(request, deed=WATCH, work=work)

    @app.route("/livez")
    def livez(self, request: IRequest) -> OperationResource:
        """
        Say that the process is alive, as its answering shows.
        """
        return self._operation(request, work=partial(self._livez, request.uri))

    def _livez(self, uri: bytes, arguments: Arguments) -> Reply:
        # A reload that failed makes the process no less alive.
        reload = self._last_reload()
        notes = [] if reload is None else [reload]
        return _health(uri, arguments, "livez", {"reactor": None}, notes)

    @app.route("/readyz")
    def readyz(self, request: IRequest) -> OperationResource:
        """
        Say whether a step would be taken.
        """
        return self._operation(request, work=partial(self._readyz, request.uri))

    @app.route("/metrics")
    def metrics(self, request: IRequest) -> OperationResource:
        """
        Say what the service counts.
        """
        return self._operation(request, work=self._metrics)

    @app.route("/openapi.json")
    def openapi(self, request: IRequest) -> OperationResource:
        """
        Describe the API, as an OpenAPI document.
        """
        return self._operation(request, work=self._openapi)

    # The work of the endpoints that do more than read the cursor or move it.

    def _index(self, arguments: Arguments) -> Reply:
        kind = best_of((TEXT, JSON, HTML), arguments.get(ACCEPT))
        if kind == HTML:
            return self._page_for_browsers.reply(conditions(arguments).if_none_match)
        headers = ((b"Content-Type", TYPES[kind]), (b"Vary", b"Accept"))
        table = self._table
        return Reply(200, headers, table.json_index if kind == JSON else table.text_index)

    def _history(self, request: IRequest, arguments: Arguments) -> Deferred[Reply]:
        limit = number(request.uri, "limit", 1, _MOST_ROWS)
        before = number(request.uri, "before", 1, None)
        rows_wanted = _DEFAULT_ROWS if limit is None else limit
        return self._pages.run(
            lambda: Deferred.fromCoroutine(self._page(arguments, before, rows_wanted)),
            self._client_name(request, arguments),
        )

    def _client_name(self, request: object, arguments: Arguments) -> str:
        caller = cast(ISender, request).caller
        return self._performer.clients.client_name(caller, arguments.get(FORWARDED_FOR))

    async def _page(
        self, arguments: Arguments, before: int | None, rows_wanted: int
    ) -> Reply:
        # The rows are those on disk, whatever readers of the cursor are shown.
        state = await self._committer.read_durable()
        self._check_read()
        wanted = preferences(arguments)
        kind = kind_of_read(conditions(arguments), state)
        if kind is not VALUE:
            return state_reply(kind, wanted, state)
        newest = state.revision + 1
        before = newest if before is None else min(before, newest)
        # One row more than is wanted, to see whether more follow.
        rows = await self._committer.history(before, rows_wanted + 1)
        following = None
        if len(rows) > rows_wanted:
            del rows[rows_wanted:]
            following = f"/history?before={rows[-1].revision}&limit={rows_wanted}"
        return history_reply(state, wanted.value, rows, following)

    def _check_read(self) -> None:
        """
        Check that the cursor could be read.

        @raise NotTaken: the cursor could not be read.
        """
        if self._committer.unread is not None:
            raise self._committer.unread

    def _stream(self, request: Request, arguments: Arguments) -> Deferred[None]:
        self._check_read()
        stream = self._events.open(
            request,
            arguments.get(LAST_EVENT_ID),
            client=self._client_name(request, arguments),
            workers="workers" in query(request.uri),
        )
        return stream.addCallback(lambda _: request.finish())

    def _readyz(self, uri: bytes, arguments: Arguments) -> Reply:
        refusal = self._committer.refusal
        store = None if refusal is None else str(refusal)
        return _health(uri, arguments, "readyz", {"store": store})

    def _metrics(self, arguments: Arguments) -> Reply:
        return self._scrape(arguments.get(ACCEPT))

    def _openapi(self, arguments: Arguments) -> Reply:
        # Most workers are never asked for it.
        from pexservice.web.openapi import rendered  # noqa: PLC0415 see above

        values = arguments.get(IF_NONE_MATCH)
        known = None if values is None else parse_tags("If-None-Match", values)
        return rendered(self._table.endpoints).reply(known)


def _health(
    uri: bytes,
    arguments: Arguments,
    name: str,
    checks: dict[str, str | None],
    notes: Sequence[str] = (),
) -> Reply:
    """
    Return an answer by Kubernetes' conventions.

    The answer is C{ok}, or has each check on a line.  As JSON, the answer has each check by
    its name.

    @param checks: for each check by its name, the reason why it fails, if it does.
    @param notes: further lines for clients that ask for each check.
    """
    failing = [reason for reason in checks.values() if reason is not None]
    kind = best_of((TEXT, JSON), arguments.get(ACCEPT))
    if kind == JSON:
        told = {
            "status": "failed" if failing else "ok",
            "checks": {check: reason or "ok" for check, reason in checks.items()},
            "notes": list(notes),
        }
        body = f"{json.dumps(told)}\n"
    elif "verbose" in query(uri) or failing:
        lines = [
            f"[+]{check} ok" if reason is None else f"[-]{check} failed: {reason}"
            for check, reason in checks.items()
        ]
        outcome = "failed" if failing else "passed"
        shown = [f"[+]{note}" for note in notes]
        body = "\n".join([*lines, *shown, f"{name} check {outcome}", ""])
    else:
        body = "ok\n"
    headers = (
        (b"Content-Type", TYPES[kind]),
        # No cache keeps the answer, so it needs no Vary.
        (b"Cache-Control", b"no-store"),
    )
    return Reply(503 if failing else 200, headers, body.encode())

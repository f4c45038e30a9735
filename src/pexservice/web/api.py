"""
The Klein app, which has a handler for each endpoint.

A handler returns an L{Operation} on the cursor, a L{Response}, or a C{Deferred} that fires
with a response.  If a handler returns an operation, the server remembers this operation,
and does not call the handler again for requests with the same method, path, version and
deciding headers; see L{pexservice.server.plans}.  A handler that returns a response is
called for each request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, cast

from attrs import asdict
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from werkzeug.routing import Map

from pexservice.commit.interface import ICommitter, Outcome
from pexservice.core.cursor import Transition
from pexservice.process.supervisor_report import Process, SupervisorReport, last_reload
from pexservice.stores.errors import Refusal
from pexservice.web import problems
from pexservice.web.endpoints import DEFAULT_TABLE, Endpoint, EndpointTable
from pexservice.web.events import STREAM_HEADERS, Events
from pexservice.web.fair_queue import CallLater, FairQueue
from pexservice.web.operations import (
    HandlerResult,
    Operation,
    Request,
    RequestChecker,
    operation_of,
    response_kind,
)
from pexservice.web.page import page
from pexservice.web.parameters import (
    ACCEPT,
    FORWARDED_FOR,
    IF_NONE_MATCH,
    LAST_EVENT_ID,
    preconditions_of,
    preferences,
    preferred_type,
    query_number,
    query_parameters,
)
from pexservice.web.preconditions import parse_etags
from pexservice.web.representations import STATE, history_response, state_response
from pexservice.web.responses import CONTENT_TYPES, HTML, JSON, TEXT, Response

DEFAULT_ENTRY_COUNT = 100
MAX_ENTRY_COUNT = 1000

#: The endpoint of C{OPTIONS *}, a request about the server as a whole.
_WHOLE_SERVER = Endpoint("*", (b"GET", b"HEAD", b"POST"), "")

Handler = TypeVar("Handler", bound=Callable[..., HandlerResult])


class _App(Protocol):
    """
    The type of the Klein app here: its handlers return no objects that Twisted can render.
    """

    url_map: Map

    def route(
        self, url: str, /, *, methods: Sequence[str] = ...
    ) -> Callable[[Handler], Handler]: ...

    def execute_endpoint(self, endpoint: str, request: Request, /) -> HandlerResult: ...


class Api:
    app = cast(_App, Klein())

    def __init__(
        self,
        committer: ICommitter,
        checker: RequestChecker,
        events: Events,
        *,
        table: EndpointTable = DEFAULT_TABLE,
        later: CallLater,
        metrics_response: Callable[[Sequence[bytes] | None], Response],
        read_report: Callable[[], SupervisorReport | None] = lambda: None,
    ) -> None:
        """
        Make the app over C{committer}.

        @param table: the endpoints and their methods.
        @param later: the reactor's C{callLater}, for pauses between pages of the history.
        @param metrics_response: called with the values of C{Accept}; returns the response
            to C{/metrics}.
        @param read_report: reads the supervisor's report, if there is a supervisor.
        """
        self._committer = committer
        self._checker = checker
        self._events = events
        self._table = table
        self._history_queue = FairQueue(later)
        self._metrics_response = metrics_response
        self._read_report = read_report
        self._routes = self.app.url_map.bind("localhost")

    def resource(self) -> Resource:
        """
        Return the API as a resource for a C{Site} of Twisted.
        """
        from pexservice.web.twisted_resource import ApiResource  # noqa: PLC0415 the daemon does not use it

        return ApiResource(self.call_handler, self._checker)

    def call_handler(self, request: Request) -> HandlerResult:
        """
        Call the handler of C{request}.

        Path and method must be in the table exactly as the client has sent them.  Klein
        uses Werkzeug, which would call the handler of C{/next} for C{//next} and
        C{/%6eext} too, and the handler of a GET for a HEAD.

        @raise Problem: there is no such path or method, or the handler refuses the request.
        """
        method, path = request.method, request.path
        endpoint = self._table.by_path.get(path)
        if path == b"*" and method == b"OPTIONS":
            endpoint = _WHOLE_SERVER
        if endpoint is None:
            raise problems.no_such_path(b" ".join(self._table.by_path).decode())
        if method == b"OPTIONS":
            preflight = self._checker.access.preflight_headers(
                request.headers, endpoint.allow
            )
            return Response(204, ((b"Allow", endpoint.allow), *preflight))
        if method not in endpoint.methods:
            allow = endpoint.allow
            raise problems.wrong_method(allow.decode(), headers=((b"Allow", allow),))
        name, _ = self._routes.match(endpoint.path, method.decode())
        return self.app.execute_endpoint(name, request)

    @app.route("/")
    def index(self, request: Request) -> Response:
        """
        List the endpoints; a browser gets the live page.
        """
        media_type = preferred_type((TEXT, JSON, HTML), request.headers.get(ACCEPT))
        if media_type == HTML:
            return page().response(preconditions_of(request.headers).if_none_match)
        headers = ((b"Content-Type", CONTENT_TYPES[media_type]), (b"Vary", b"Accept"))
        index = self._table.json_index if media_type == JSON else self._table.text_index
        return Response(200, headers, index)

    @app.route("/current")
    def current(self, request: Request) -> Operation:
        return operation_of(request)

    @app.route("/next", methods=["GET", "POST"])
    def next(self, request: Request) -> Operation:
        return operation_of(request, Transition.NEXT)

    @app.route("/previous", methods=["GET", "POST"])
    def previous(self, request: Request) -> Operation:
        return operation_of(request, Transition.PREVIOUS)

    @app.route("/reset", methods=["GET", "POST"])
    def reset(self, request: Request) -> Operation:
        return operation_of(request, Transition.RESET)

    @app.route("/history")
    def history(self, request: Request) -> Deferred[Response]:
        limit = query_number(request.target, "limit", 1, MAX_ENTRY_COUNT)
        before = query_number(request.target, "before", 1, None)
        count = DEFAULT_ENTRY_COUNT if limit is None else limit
        return self._history_queue.run(
            lambda: Deferred.fromCoroutine(self._history_page(request, before, count)),
            self._client(request),
        )

    @app.route("/events")
    def events(self, request: Request) -> Response:
        self._checker.access.check_page("watch the cursor", request.headers)
        self._check_read()
        stream = self._events.open(
            request.headers.get(LAST_EVENT_ID),
            client=self._client(request),
            workers="workers" in query_parameters(request.target),
        )
        return Response(200, STREAM_HEADERS, stream=stream)

    @app.route("/livez")
    def livez(self, request: Request) -> Response:
        """
        Say that the process is alive.  Any response shows that, so the check never fails.
        """
        report = self._read_report()
        reload = last_reload(report)
        notes = [] if reload is None else [reload]
        # Only a local client whose Host was checked may see process ids.  Otherwise, a web
        # page could read them by DNS rebinding.
        may_see = self._checker.hosts.checks(request.peer)
        processes = report.processes if report is not None and may_see else None
        return _health(request, "livez", "reactor", None, notes=notes, processes=processes)

    @app.route("/readyz")
    def readyz(self, request: Request) -> Response:
        return _health(request, "readyz", "store", self._committer.step_refusal)

    @app.route("/metrics")
    def metrics(self, request: Request) -> Response:
        return self._metrics_response(request.headers.get(ACCEPT))

    @app.route("/openapi.json")
    def openapi(self, request: Request) -> Response:
        from pexservice.web.openapi import rendered  # noqa: PLC0415 rarely used

        values = request.headers.get(IF_NONE_MATCH)
        if_none_match = None if values is None else parse_etags("If-None-Match", values)
        return rendered(self._table.endpoints).response(if_none_match)

    def _client(self, request: Request) -> str:
        """
        Return the client, or C{""} if a proxy has sent the request without its client.
        """
        clients, forwarded = self._checker.clients, request.headers.get(FORWARDED_FOR)
        return clients.client_of(clients.client_address(request.peer, forwarded)) or ""

    async def _history_page(
        self, request: Request, before: int | None, count: int
    ) -> Response:
        # With C{--synchronous-commit off}, other reads show the latest state.  The history
        # has only durable entries.
        state = await self._committer.read_durable()
        self._check_read()
        preferred = preferences(request.headers)
        preconditions = preconditions_of(request.headers)
        kind = response_kind(Outcome.READ, state, request.method, preconditions)
        if kind is not STATE:
            return state_response(kind, preferred, state)
        above_state = state.revision + 1
        before = above_state if before is None else min(before, above_state)
        # One entry more than requested shows whether another page follows.
        entries = await self._committer.history(before, count + 1)
        following = None
        if len(entries) > count:
            del entries[count:]
            following = f"/history?before={entries[-1].revision}&limit={count}"
        return history_response(state, preferred.value, entries, following)

    def _check_read(self) -> None:
        """
        @raise Refusal: reads are refused now.
        """
        if self._committer.read_refusal is not None:
            raise self._committer.read_refusal


def _health(
    request: Request,
    name: str,
    check: str,
    refusal: Refusal | None,
    *,
    notes: Sequence[str] = (),
    processes: Sequence[Process] | None = None,
) -> Response:
    """
    Return the response of a health check, by Kubernetes' conventions.

    If the check passes, the body is C{ok}.  If the check fails, or if the client asks for
    C{?verbose} or JSON, the body has details.

    @param refusal: why C{check} fails, or C{None} if it passes.
    @param notes: further details.
    @param processes: the processes of the service; C{None} for a client that must not see
        them.
    """
    media_type = preferred_type((TEXT, JSON), request.headers.get(ACCEPT))
    if media_type == JSON:
        content: dict[str, object] = {
            "status": "ok" if refusal is None else "failed",
            "checks": {check: "ok" if refusal is None else str(refusal)},
            "notes": list(notes),
        }
        if processes is not None:
            content["processes"] = [asdict(process) for process in processes]
        body = f"{json.dumps(content)}\n"
    elif "verbose" in query_parameters(request.target) or refusal is not None:
        lines = [
            f"[+]{check} ok" if refusal is None else f"[-]{check} failed: {refusal}",
            *(f"[+]{note}" for note in notes),
            *(f"[+]{p.name} is process {p.pid}: {p.state}" for p in processes or ()),
            f"{name} check {'passed' if refusal is None else 'failed'}",
        ]
        body = "\n".join([*lines, ""])
    else:
        body = "ok\n"
    headers = (
        (b"Content-Type", CONTENT_TYPES[media_type]),
        # No cache stores the response, so Vary is not needed.
        (b"Cache-Control", b"no-store"),
    )
    return Response(200 if refusal is None else 503, headers, body.encode())

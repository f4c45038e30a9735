"""
The Klein app, which has a handler for each endpoint.

The table of L{pexservice.web.endpoints} decides which paths and methods exist.  Klein then
finds the handler of the path.  The handler returns an L{Operation} on the cursor, a
L{Response}, or a C{Deferred} that fires with a response.

A handler that returns a response is called for each request.  If a handler returns an
operation, the server remembers it as a plan; see L{pexservice.server.plans}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, cast

from attrs import asdict
from klein import Klein
from twisted.internet.defer import Deferred
from werkzeug.routing import Map

from pexservice.commit.interface import ICommitter, Outcome
from pexservice.core.cursor import Transition
from pexservice.process.supervisor_report import Process, SupervisorReport, reload_notes
from pexservice.stores.errors import Refusal
from pexservice.web import problems
from pexservice.web.endpoints import DEFAULT_TABLE, EndpointTable
from pexservice.web.events import STREAM_HEADERS, Events
from pexservice.web.fair_queue import CallLater, FairQueue
from pexservice.web.operations import (
    HandlerResult,
    Operation,
    Request,
    RequestChecker,
    response_kind,
)
from pexservice.web.page import page
from pexservice.web.parameters import (
    ACCEPT,
    FORWARDED_FOR,
    IF_NONE_MATCH,
    LAST_EVENT_ID,
    is_prefetch,
    preconditions_of,
    preferences_of,
    preferred_type,
    query_number,
    query_parameters,
)
from pexservice.web.preconditions import parse_etags
from pexservice.web.representations import history_response, state_response
from pexservice.web.responses import CONTENT_TYPES, HTML, JSON, TEXT, Response

DEFAULT_ENTRY_COUNT = 100
MAX_ENTRY_COUNT = 1000

Handler = TypeVar("Handler", bound=Callable[..., HandlerResult])


class _App(Protocol):
    """
    The part of Klein that is used here.

    Klein's own types allow only results that Twisted can render.  These handlers return
    other objects, which L{pexservice.server} sends.
    """

    url_map: Map

    def route(self, url: str, /) -> Callable[[Handler], Handler]: ...

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
        call_later: CallLater,
        metrics_response: Callable[[Sequence[bytes] | None], Response],
        read_report: Callable[[], SupervisorReport | None],
    ) -> None:
        """
        Make the app of C{committer}.

        @param table: the endpoints and their methods.
        @param metrics_response: called with the values of C{Accept}; returns the response
            to C{/metrics}.
        @param read_report: reads the supervisor's report, if there is a supervisor.
        """
        self._committer = committer
        self._checker = checker
        self._events = events
        self._table = table
        self._history_queue = FairQueue(call_later)
        self._metrics_response = metrics_response
        self._read_report = read_report
        self._router = self.app.url_map.bind("localhost")

    def call_handler(self, request: Request) -> HandlerResult:
        """
        Call the handler of C{request}.

        Path and method must be in the table exactly as the client has sent them.  Klein's
        router alone would also accept C{//next} and C{/%6eext} for C{/next}, and a HEAD for
        each GET.

        @raise Problem: there is no such path or method, or the handler refuses the request.
        """
        method, path, access = request.method, request.path, self._checker.access
        if path == b"*" and method == b"OPTIONS":
            # This request asks about the server as a whole.
            return Response(204, ((b"Allow", problems.ALL_METHODS),))
        endpoint = self._table.by_path.get(path)
        if endpoint is None:
            raise problems.no_such_path(b" ".join(self._table.by_path).decode())
        allow = endpoint.allow
        if method == b"OPTIONS":
            preflight = access.preflight_headers(request.headers, allow)
            return Response(204, ((b"Allow", allow), *preflight))
        if method not in endpoint.methods:
            raise problems.wrong_method(allow.decode(), headers=((b"Allow", allow),))
        handler_name, _ = self._router.match(endpoint.path)
        return self.app.execute_endpoint(handler_name, request)

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
        return Operation(request.method)

    @app.route("/next")
    def next(self, request: Request) -> Operation:
        return _step(request, Transition.NEXT)

    @app.route("/previous")
    def previous(self, request: Request) -> Operation:
        return _step(request, Transition.PREVIOUS)

    @app.route("/reset")
    def reset(self, request: Request) -> Operation:
        return _step(request, Transition.RESET)

    @app.route("/history")
    def history(self, request: Request) -> Deferred[Response]:
        limit = query_number(request.target, "limit", MAX_ENTRY_COUNT)
        before = query_number(request.target, "before")
        count = limit or DEFAULT_ENTRY_COUNT
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
        Show that the process is alive.  Any response proves this, so the check never fails.
        """
        report = self._read_report() or SupervisorReport()
        # Only a local client may see process ids, and only if its Host is checked.  Without
        # this check, a web page could read them by DNS rebinding.
        may_see_processes = self._checker.hosts.protects(request.peer)
        processes = report.processes if may_see_processes else ()
        return _health(
            request,
            check="livez",
            component="reactor",
            notes=reload_notes(report),
            processes=processes,
        )

    @app.route("/readyz")
    def readyz(self, request: Request) -> Response:
        refusal = self._committer.step_refusal
        return _health(request, check="readyz", component="store", refusal=refusal)

    @app.route("/metrics")
    def metrics(self, request: Request) -> Response:
        return self._metrics_response(request.headers.get(ACCEPT))

    @app.route("/openapi.json")
    def openapi(self, request: Request) -> Response:
        from pexservice.web.openapi import rendered  # noqa: PLC0415 rarely used

        # If-Match is about the cursor, so it is ignored here.
        values = request.headers.get(IF_NONE_MATCH)
        if_none_match = None if values is None else parse_etags("If-None-Match", values)
        return rendered(self._table.endpoints).response(if_none_match)

    def _client(self, request: Request) -> str:
        forwarded = request.headers.get(FORWARDED_FOR)
        return self._checker.clients.client_of(request.peer, forwarded)

    async def _history_page(
        self, request: Request, before: int | None, count: int
    ) -> Response:
        # The journal has only durable entries.  So the revision, the position and the ETag
        # of a history page are those of the durable state.  With --synchronous-commit off,
        # other reads show the latest state.
        state = await self._committer.read_durable()
        self._check_read()
        preferences = preferences_of(request.headers)
        preconditions = preconditions_of(request.headers)
        kind = response_kind(Outcome.READ, state, request.method, preconditions)
        if not kind.has_value:
            return state_response(kind, preferences, state)
        # The store may have entries that are newer than this state.  They are left out.
        end = state.revision + 1
        before = end if before is None else min(before, end)
        # One entry more than requested shows whether another page follows.
        entries = await self._committer.history(before, count + 1)
        next_page = None
        if len(entries) > count:
            del entries[count:]
            next_page = f"/history?before={entries[-1].revision}&limit={count}"
        return history_response(state, preferences.value, entries, next_page)

    def _check_read(self) -> None:
        """
        @raise Refusal: reads are refused now.
        """
        refusal = self._committer.read_refusal
        if refusal is not None:
            # A copy, because the traceback of an exception grows each time it is raised.
            raise Refusal(str(refusal))


def _step(request: Request, transition: Transition) -> Operation:
    """
    Return the operation of a step.

    @raise Problem: 403 for a prefetch, which a browser sends before its user asks for it.
    """
    if is_prefetch(request.headers):
        raise problems.prefetch()
    return Operation(request.method, transition)


def _health(
    request: Request,
    *,
    check: str,
    component: str,
    refusal: Refusal | None = None,
    notes: Sequence[str] = (),
    processes: Sequence[Process] = (),
) -> Response:
    """
    Return the response of a health check, by Kubernetes' conventions.

    If the check passes, the body is C{ok}.  If the check fails, or if the client asks for
    C{?verbose} or JSON, the body has details.

    @param check: the name of the check.
    @param component: the part of the worker that is checked.
    @param refusal: why the check fails, or C{None} if it passes.
    @param processes: those processes of the service that the client may see.
    """
    media_type = preferred_type((TEXT, JSON), request.headers.get(ACCEPT))
    passes = refusal is None
    if media_type == JSON:
        content: dict[str, object] = {
            "status": "ok" if passes else "failed",
            "checks": {component: "ok" if passes else str(refusal)},
            "notes": notes,
        }
        if processes:
            content["processes"] = [asdict(process) for process in processes]
        body = f"{json.dumps(content)}\n"
    elif passes and "verbose" not in query_parameters(request.target):
        body = "ok\n"
    else:
        lines = [
            f"[+]{component} ok" if passes else f"[-]{component} failed: {refusal}",
            *(f"[+]{note}" for note in notes),
            *(f"[+]{p.name} is process {p.pid}: {p.state}" for p in processes),
            f"{check} check {'passed' if passes else 'failed'}",
        ]
        body = "".join(f"{line}\n" for line in lines)
    headers = (
        (b"Content-Type", CONTENT_TYPES[media_type]),
        # No cache stores the response, so Vary is not needed.
        (b"Cache-Control", b"no-store"),
    )
    return Response(200 if passes else 503, headers, body.encode())

"""
Plans: the meanings of requests, remembered so that the Klein app is asked once for each.

The server finds a plan in one of three ways, the fastest first.  A slower way prepares the
faster ones for the next request:

  1. by the exact bytes of the request, if the same bytes arrived before;
  2. by a L{Template}: most heads of a client differ in a few lines only, so the bytes
     before and after these lines are compared as a whole, and only these lines are read;
  3. by the key of the head, after all its lines were read.

A head with another meaning never finds this plan: the first two ways compare every byte
except the values of headers that do not decide the meaning.  Everything that is remembered
is bounded, whatever clients send.  No secret and no idempotency key is remembered, except
on the connection that sent it: a client sends the same token with every step, so its
connection compares the next request with the latest one first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from hmac import compare_digest
from typing import Protocol

from attrs import define, frozen

from pexservice.server.parser import (
    HEADER_VALUE,
    Arguments,
    Generations,
    Head,
    HeadReader,
    Key,
)
from pexservice.server.request_counters import Tally
from pexservice.web.parameters import AUTHORIZATION, HEADERS, HOST, Preferences, Use
from pexservice.web.performer import Call, Operation
from pexservice.web.problems import Problem
from pexservice.web.responses import Header

#: There is one plan for each endpoint, method, version and meaning of the deciding headers:
#: some hundreds.
MAX_PLANS = 4096

#: How many requests a generation of exact bytes has, and the longest: 4 MiB for both.
MAX_EXACT_REQUESTS = 1024
MAX_EXACT_BYTES = 2048

#: The bounds of a template and of the heads that it is compared with, how many a connection
#: has, and how many are made in a second: making one costs as much as reading some heads.
MAX_TEMPLATE_BYTES = 2048
MAX_FILLED_BYTES = 4096
MAX_VARYING_LINES = 4
MAX_TEMPLATES = 2
MAX_NEW_TEMPLATES_PER_SECOND = 256

#: The headers that are read and whose values may still vary in a template.
_MAY_VARY = frozenset(
    name
    for name, use in HEADERS.items()
    if name != HOST and not use & (Use.DECIDES | Use.FRAMES)
)

#: What varies in the requests of a client that sends nothing but its token.
_TOKEN_ALONE = (AUTHORIZATION,)


@frozen(eq=False)
class Framing:
    """
    What all responses to requests of one kind have in common.

    @ivar version: the version of HTTP, as C{b"HTTP/1.1"}.
    @ivar connection: the value of the C{Connection} header, if there is one.
    @ivar last: whether the connection ends with the response.
    @ivar browser_headers: the headers that every response has for browsers.
    @ivar bodiless: whether the body is left out, as in the response to a HEAD.
    """

    version: bytes
    connection: bytes | None
    last: bool
    browser_headers: tuple[Header, ...]
    preferences: Preferences
    bodiless: bool


@frozen(eq=False)
class Plan:
    """
    What requests of one kind mean, and how the responses are written and counted.

    @ivar operation: C{None} for a request that is not about the cursor, or that no handler
        was asked for yet: such a plan is for one request.
    """

    operation: Operation | None
    framing: Framing
    tally: Tally


@define(eq=False)
class PlannedRequest:
    """
    A request whose plan is known.

    @ivar line: the request line for the access log.
    @ivar call: the operation with these arguments, if they are the same each time.
    """

    plan: Plan
    arguments: Arguments
    line: bytes
    call: Call | None = None


@define(eq=False)
class Template:
    """
    The bytes that the requests of a client have in common, around the lines that vary.

    @ivar prefix: the bytes before the varying lines; C{suffix}: the bytes after them.
    @ivar varying: the varying lines, with a group for each value that is an argument.
    @ivar names: the names of these arguments.
    @ivar request: the request without these arguments.
    @ivar latest: the hash of the latest request's values, if its lines may be remembered.
    """

    prefix: bytes
    suffix: bytes
    varying: re.Pattern[bytes]
    names: tuple[bytes, ...]
    request: PlannedRequest
    rememberable: bool
    latest: int = 0

    def fill(self, data: bytes) -> PlannedRequest | None:
        """
        Return the request in C{data}, if it fits the template.
        """
        if len(data) > MAX_FILLED_BYTES or not (
            data.startswith(self.prefix) and data.endswith(self.suffix)
        ):
            return None
        match = self.varying.fullmatch(data, len(self.prefix), len(data) - len(self.suffix))
        if match is None:
            return None
        request, names = self.request, self.names
        if not names:
            return request
        values = match.groups()
        if self.rememberable:
            latest = hash(values)
            if latest == self.latest:
                # The request is repeated: read as a whole, it becomes an exact request.
                return None
            self.latest = latest
        arguments = request.arguments.copy()
        for name, value in zip(names, values, strict=True):
            arguments[name] = [value]
        return PlannedRequest(request.plan, arguments, request.line)


class HasTemplates(Protocol):
    """
    A connection, as far as plans are concerned.

    @ivar templates: its templates, the latest first.
    @ivar varied: the names of the lines that were new in the last head that was read.
    @ivar with_token: the latest request whose token was accepted, and its bytes.
    """

    templates: tuple[Template, ...]
    varied: tuple[bytes, ...]
    with_token: tuple[bytes, PlannedRequest] | None


class Plans:
    """
    The plans of one worker.

    @ivar exact: the requests that were read before, by their bytes.
    @ivar reader: reads the heads of all other requests.
    """

    def __init__(
        self,
        call: Callable[[Operation, Arguments], Call],
        meanings: Mapping[bytes, Callable[[Sequence[bytes]], Hashable]],
    ) -> None:
        """
        Make empty plans.

        @param call: returns the call of an operation, or raises a L{Problem}.
        @param meanings: see L{HeadReader}.
        """
        self.exact: Generations[bytes, PlannedRequest] = Generations(MAX_EXACT_REQUESTS)
        self.reader = HeadReader(meanings)
        self._call = call
        self._plans: dict[Key, Plan] = {}
        self._latest: tuple[Template, ...] = ()
        # The hashes of requests that arrived once.
        self._once: Generations[int, bool] = Generations(MAX_EXACT_REQUESTS)
        self._varied: tuple[bytes, ...] = ()
        self._new_templates = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._plans)

    def tick(self) -> None:
        """
        Begin another second, in which L{MAX_NEW_TEMPLATES_PER_SECOND} may be made.
        """
        self._new_templates = 0

    def close(self) -> None:
        """
        Forget everything and remember nothing more.

        While the worker stops, every response says C{Connection: close}.
        """
        self._closed = True
        self._latest = ()
        self._plans.clear()
        self.exact.clear()

    def fill(self, data: bytes, connection: HasTemplates) -> PlannedRequest | None:
        """
        Return the request in C{data}, by a template of its connection if it has any.

        A connection without templates tries the worker's latest ones.
        """
        if self._closed:
            return None
        with_token = connection.with_token
        # In a time that tells nothing about the token.
        if with_token is not None and compare_digest(with_token[0], data):
            return with_token[1]
        templates = connection.templates
        for template in templates or self._latest:
            request = template.fill(data)
            if request is not None:
                if not templates or templates[0] is not template:
                    _prefer(connection, template)
                if template.names == _TOKEN_ALONE and len(data) <= MAX_EXACT_BYTES:
                    request.call = self._bound(request)
                    if request.call is not None:
                        connection.with_token = (data, request)
                return request
        # Entries of the old generation move to the young one.
        return self.exact.get(data)

    def get(self, key: Key) -> Plan | None:
        return self._plans.get(key)

    def add(self, key: Key, plan: Plan) -> None:
        if not self._closed and len(self._plans) < MAX_PLANS:
            self._plans[key] = plan

    def learn(
        self, data: bytes, head: Head, plan: Plan, connection: HasTemplates
    ) -> PlannedRequest:
        """
        Return the request with C{head}, and remember C{data} as its bytes.

        @param data: the chunk, if it contained only this request; else C{b""}.
        """
        request = PlannedRequest(plan, head.arguments, head.line.logged)
        if not data or self._closed:
            connection.varied = ()
        elif head.new_lines is None:
            self._learn_bytes(data, request)
        else:
            self._learn_template(data, head, request, connection)
        return request

    def _learn_bytes(self, data: bytes, request: PlannedRequest) -> None:
        """
        Remember a request whose lines were all read before, when it is repeated.
        """
        if len(data) > MAX_EXACT_BYTES:
            return
        if self._once.get(hash(data)) is None:
            self._once.put(hash(data), True)  # noqa: FBT003 a set of two generations
            return
        request.call = self._bound(request)
        if request.call is not None:
            self.exact.put(data, request)

    def _bound(self, request: PlannedRequest) -> Call | None:
        """
        Return the call for requests that have the same arguments each time.

        @return: C{None} if it is refused: then every such request is checked again.
        """
        operation = request.plan.operation
        try:
            return None if operation is None else self._call(operation, request.arguments)
        except Problem:
            return None

    def _learn_template(
        self, data: bytes, head: Head, request: PlannedRequest, connection: HasTemplates
    ) -> None:
        """
        Make a template when lines of the same names are new for the second time in a row.
        """
        first, last = head.new_lines or (0, 0)
        if first == 0 or last - first >= MAX_VARYING_LINES:
            connection.varied = ()
            return
        names = tuple([line.partition(b": ")[0] for line in head.lines[first : last + 1]])
        # A client with a connection for each request has no earlier head on it.
        varied = connection.varied or self._varied
        connection.varied = self._varied = names
        if varied == names and self._new_templates < MAX_NEW_TEMPLATES_PER_SECOND:
            template = self._template(data, head, (first, last), request)
            if template is not None:
                self._new_templates += 1
                _prefer(connection, template)
                self._latest = (template, *self._latest[: MAX_TEMPLATES - 1])

    def _template(
        self, data: bytes, head: Head, span: tuple[int, int], request: PlannedRequest
    ) -> Template | None:
        first, last = span
        spelled = [line.partition(b": ") for line in head.lines[first : last + 1]]
        names = [name.lower() for name, _, _ in spelled]
        begin = sum(len(line) + 2 for line in head.lines[:first])
        end = begin + sum(len(line) + 2 for line in head.lines[first : last + 1]) - 2
        prefix, suffix = data[:begin], data[end:]
        arguments = dict(head.arguments)
        values = [arguments.pop(name, None) for name in names]
        if len(prefix) + len(suffix) > MAX_TEMPLATE_BYTES or not all(
            separator
            and (name not in HEADERS or name in _MAY_VARY)
            and (value is None or len(value) == 1)
            for (_, separator, _), name, value in zip(spelled, names, values, strict=True)
        ):
            return None
        read = [value is not None for value in values]
        pattern = _pattern(tuple(name for name, _, _ in spelled), tuple(read))
        plan, line = request.plan, request.line
        same = PlannedRequest(plan, arguments, line)
        varying = tuple(
            [name for name, is_read in zip(names, read, strict=True) if is_read]
        )
        if not varying:
            same.call = self._bound(same)
        rememberable = not any(Use.NEVER_REMEMBERED in HEADERS[name] for name in varying)
        return Template(prefix, suffix, pattern, varying, same, rememberable)


@lru_cache(maxsize=256)
def _pattern(names: tuple[bytes, ...], read: tuple[bool, ...]) -> re.Pattern[bytes]:
    """
    Return the expression of lines with these names, with a group for each value to read.
    """
    lines = [
        re.escape(name) + (b": (%b)" if is_read else b": %b") % HEADER_VALUE
        for name, is_read in zip(names, read, strict=True)
    ]
    return re.compile(b"\r\n".join(lines))


def _prefer(connection: HasTemplates, template: Template) -> None:
    others = [other for other in connection.templates if other is not template]
    connection.templates = (template, *others[: MAX_TEMPLATES - 1])

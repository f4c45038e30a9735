"""
Plans: what requests mean.  Each kind of request has one plan.

To make a plan, the server calls a handler of the Klein app.  For a later request of this
kind it finds the plan without the handler, in one of three ways, the fastest first:

  1. by the exact bytes of the request, if the same bytes arrived before;
  2. by a L{Template}, if the request differs from an earlier one of its client in a few
     neighbouring lines only: the bytes before and after these lines are compared as a
     whole, and only these lines are read;
  3. by the plan key of the head, after every line was read.

The third way learns for the first two.  It remembers the exact bytes of a request that it
has found twice.  A template is made when two requests in a row have lines that were not
remembered, and these lines have the same names.

A request never gets the plan of another kind: the first two ways compare every byte, except
the values of headers that do not decide what a request means.

The memory for all this is bounded, whatever clients send.  A line with a secret or an
idempotency key is not remembered, with one exception: if the token is the only value in the
varying lines that the service reads, the connection keeps the bytes of the latest accepted
request, because a client sends the same token with every step.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hmac import compare_digest
from typing import Protocol

from attrs import define, frozen

from pexservice.server.parser import (
    HEADER_VALUE,
    GenerationalCache,
    Head,
    HeadReader,
    PlanKey,
    RequestHeaders,
)
from pexservice.server.request_counters import Tally
from pexservice.web.operations import CheckedOperation, Operation, RequestChecker
from pexservice.web.parameters import AUTHORIZATION, HEADERS, HOST, HeaderRole, Preferences
from pexservice.web.problems import Problem
from pexservice.web.responses import Header

#: There are some hundreds of plan keys: combinations of an endpoint, a method, a version
#: and the meanings of the deciding headers.
MAX_PLANS = 4096

#: How many requests one generation of the cache remembers by their bytes, and the size of
#: the largest one.  The two generations take at most 4 MiB.
MAX_EXACT_REQUESTS = 1024
MAX_EXACT_BYTES = 2048

#: The limits of a template, and the size of the largest request that is compared with it.
MAX_TEMPLATE_BYTES = 2048
MAX_VARYING_LINES = 4
MAX_MATCHED_BYTES = 4096

#: How many templates a connection remembers.
MAX_TEMPLATES = 2

#: How many templates all connections together may make in a second.  Making a template
#: costs as much as parsing several heads.
MAX_NEW_TEMPLATES_PER_SECOND = 256

#: Those of the headers that the service reads which may be in the varying lines of a
#: template.
_MAY_VARY = frozenset(
    name
    for name, use in HEADERS.items()
    if name != HOST and not use & (HeaderRole.DECIDES | HeaderRole.FRAMES)
)

#: The C{names} of a template in which the token is the only value that is read.
_TOKEN_ALONE = (AUTHORIZATION,)


@frozen(eq=False)
class Plan:
    """
    What one kind of request means, and what all responses to it have in common.

    @ivar operation: the operation on the cursor.  C{None} if the request is refused, if its
        handler returned a response, or before its handler was called.  A plan without an
        operation is used for a single request and is not remembered.
    @ivar tally: counts the responses.
    @ivar version: the version of HTTP, as C{b"HTTP/1.1"}.
    @ivar connection_header: the value of the C{Connection} header, if there is one.
    @ivar closes_connection: whether the connection ends after the response.
    @ivar browser_headers: the headers that browsers need in every response.
    @ivar omits_body: whether the body is left out, because the request is a HEAD.
    """

    operation: Operation | None
    tally: Tally
    version: bytes
    connection_header: bytes | None
    closes_connection: bool
    browser_headers: tuple[Header, ...]
    preferences: Preferences
    omits_body: bool


@define(eq=False)
class PlannedRequest:
    """
    A request with its plan.

    @ivar logged_line: the request line for the access log.
    @ivar checked_operation: the operation, if it was checked with these headers before;
        otherwise C{None}, and the connection checks it.
    """

    plan: Plan
    headers: RequestHeaders
    logged_line: bytes
    checked_operation: CheckedOperation | None = None


@define(eq=False)
class Template:
    """
    The bytes that the requests of a client have in common, around the lines that vary.

    @ivar prefix: the bytes before the varying lines.
    @ivar suffix: the bytes after the varying lines.
    @ivar varying_lines: matches the varying lines, with a group for each value that the
        service reads.
    @ivar names: the names of the headers with these values, in the order of the groups.
    @ivar request: the request without these values.
    @ivar rememberable: whether a request may be remembered by its exact bytes.
    @ivar latest_hash: if C{rememberable}, the hash of the values in the latest request,
        which shows whether a client repeats it.
    """

    prefix: bytes
    suffix: bytes
    varying_lines: re.Pattern[bytes]
    names: tuple[bytes, ...]
    request: PlannedRequest
    rememberable: bool
    latest_hash: int = 0

    def match(self, data: bytes) -> PlannedRequest | None:
        """
        Return the request with the bytes C{data}, or C{None} if they do not match.
        """
        if len(data) > MAX_MATCHED_BYTES or not (
            data.startswith(self.prefix) and data.endswith(self.suffix)
        ):
            return None
        match = self.varying_lines.fullmatch(
            data, len(self.prefix), len(data) - len(self.suffix)
        )
        if match is None:
            return None
        request, names = self.request, self.names
        if not names:
            return request
        values = match.groups()
        if self.rememberable:
            latest_hash = hash(values)
            if latest_hash == self.latest_hash:
                # The client repeats the request, so it is to be remembered by its exact
                # bytes.  For this it must be parsed: Plans.remember needs its head.
                return None
            self.latest_hash = latest_hash
        headers = request.headers.copy()
        for name, value in zip(names, values, strict=True):
            headers[name] = [value]
        return PlannedRequest(request.plan, headers, request.logged_line)


class ConnectionMemory(Protocol):
    """
    The part of a connection that L{Plans} reads and writes.

    @ivar templates: the templates of its requests, the latest first.
    @ivar varying_names: the header names of the lines that were new in the last parsed
        head.
    @ivar latest_token_request: the bytes of the latest request whose token was accepted,
        and the request.
    """

    templates: tuple[Template, ...]
    varying_names: tuple[bytes, ...]
    latest_token_request: tuple[bytes, PlannedRequest] | None


class Plans:
    """
    The plans of one worker.

    @ivar exact: requests by their exact bytes.
    @ivar reader: reads the heads of requests that are not recognized by their bytes.
    """

    def __init__(self, checker: RequestChecker) -> None:
        self.exact: GenerationalCache[bytes, PlannedRequest] = GenerationalCache(
            MAX_EXACT_REQUESTS
        )
        self.reader = HeadReader(checker.deciding_headers())
        self._checker = checker
        self._plans: dict[PlanKey, Plan] = {}
        # The hashes of requests that arrived once.
        self._seen_once: GenerationalCache[int, bool] = GenerationalCache(
            MAX_EXACT_REQUESTS
        )
        # The latest templates and varying names of all connections, for clients that open a
        # connection for each request.
        self._latest_templates: tuple[Template, ...] = ()
        self._varying_names: tuple[bytes, ...] = ()
        self._new_templates = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._plans)

    def tick(self) -> None:
        """
        Begin another second, in which L{MAX_NEW_TEMPLATES_PER_SECOND} may be made again.
        """
        self._new_templates = 0

    def close(self) -> None:
        """
        Forget everything and remember nothing more.

        While the worker stops, every response must have C{Connection: close}.  The
        responses of remembered plans do not have it.
        """
        self._closed = True
        self._latest_templates = ()
        self._plans.clear()
        self.exact.clear()

    def find_request(
        self, data: bytes, connection: ConnectionMemory
    ) -> PlannedRequest | None:
        """
        Return the request with the bytes C{data}, if the bytes are recognized.

        C{data} is compared with the connection's latest request with a token, with the
        connection's templates, and with all requests that are remembered by their exact
        bytes.  A connection without templates uses the latest ones of the worker.
        """
        if self._closed:
            return None
        latest_token_request = connection.latest_token_request
        # compare_digest: the duration of the comparison tells a client nothing about the
        # token.
        if latest_token_request is not None and compare_digest(
            latest_token_request[0], data
        ):
            return latest_token_request[1]
        templates = connection.templates
        for template in templates or self._latest_templates:
            request = template.match(data)
            if request is not None:
                if not templates or templates[0] is not template:
                    _prefer(connection, template)
                if template.names == _TOKEN_ALONE and len(data) <= MAX_EXACT_BYTES:
                    request.checked_operation = self._reusable_operation(request)
                    if request.checked_operation is not None:
                        connection.latest_token_request = (data, request)
                return request
        # The caller has searched the young generation only.
        return self.exact.get(data)

    def find_plan(self, key: PlanKey) -> Plan | None:
        return self._plans.get(key)

    def add(self, key: PlanKey, plan: Plan) -> None:
        if not self._closed and len(self._plans) < MAX_PLANS:
            self._plans[key] = plan

    def remember(
        self, data: bytes, head: Head, plan: Plan, connection: ConnectionMemory
    ) -> PlannedRequest:
        """
        Return the request with C{head}, and prepare to recognize the next one by its bytes.

        @param data: the exact bytes of the request; C{b""} if they are not known.
        """
        request = PlannedRequest(plan, head.headers, head.line.logged)
        if not data or self._closed:
            connection.varying_names = ()
        elif head.new_lines is None:
            self._remember_bytes(data, request)
        else:
            self._remember_template(data, head, request, connection)
        return request

    def _remember_bytes(self, data: bytes, request: PlannedRequest) -> None:
        """
        Remember a request by its exact bytes when they arrive for the second time.
        """
        if len(data) > MAX_EXACT_BYTES:
            return
        if self._seen_once.get(hash(data)) is None:
            self._seen_once.put(hash(data), True)  # noqa: FBT003 only the key counts
            return
        request.checked_operation = self._reusable_operation(request)
        if request.checked_operation is not None:
            self.exact.put(data, request)

    def _reusable_operation(self, request: PlannedRequest) -> CheckedOperation | None:
        """
        Check the operation of C{request} for all requests with the same headers.

        @return: C{None} if such requests are refused, or have no operation.
        """
        operation = request.plan.operation
        try:
            if operation is not None:
                return self._checker.check_operation(operation, request.headers)
        except Problem:
            pass
        return None

    def _remember_template(
        self, data: bytes, head: Head, request: PlannedRequest, connection: ConnectionMemory
    ) -> None:
        """
        Make a template, if the new lines have the same names as those of the last request.
        """
        first, last = head.new_lines or (0, 0)
        if first == 0 or last - first >= MAX_VARYING_LINES:
            connection.varying_names = ()
            return
        names = tuple([line.partition(b": ")[0] for line in head.lines[first : last + 1]])
        # On a new connection, the last request of any connection is used.
        varying_names = connection.varying_names or self._varying_names
        connection.varying_names = self._varying_names = names
        if varying_names == names and self._new_templates < MAX_NEW_TEMPLATES_PER_SECOND:
            template = self._template(data, head, (first, last), request)
            if template is not None:
                self._new_templates += 1
                _prefer(connection, template)
                self._latest_templates = (
                    template,
                    *self._latest_templates[: MAX_TEMPLATES - 1],
                )

    def _template(
        self, data: bytes, head: Head, span: tuple[int, int], request: PlannedRequest
    ) -> Template | None:
        """
        Return a template for requests that differ from C{head} in some lines only.

        @param span: the indexes of the first and the last of these lines.
        @return: C{None} if the template would be too large; or if one of the lines is not
            written as C{name: value}, decides what the request means, or has a header that
            is repeated in another line.
        """
        first, last = span
        parts = [line.partition(b": ") for line in head.lines[first : last + 1]]
        names = [name.lower() for name, _, _ in parts]
        # Each line ends with two bytes, CR and LF; the suffix begins with the last CR.
        begin = sum(len(line) + 2 for line in head.lines[:first])
        end = begin + sum(len(line) + 2 for line in head.lines[first : last + 1]) - 2
        prefix, suffix = data[:begin], data[end:]
        headers = dict(head.headers)
        values = [headers.pop(name, None) for name in names]
        if len(prefix) + len(suffix) > MAX_TEMPLATE_BYTES or not all(
            separator
            and (name not in HEADERS or name in _MAY_VARY)
            and (value is None or len(value) == 1)
            for (_, separator, _), name, value in zip(parts, names, values, strict=True)
        ):
            return None
        is_read = [value is not None for value in values]
        pattern = _compile_pattern(tuple(name for name, _, _ in parts), tuple(is_read))
        common_request = PlannedRequest(request.plan, headers, request.logged_line)
        read_names = tuple(name for name in names if name in head.headers)
        if not read_names:
            common_request.checked_operation = self._reusable_operation(common_request)
        rememberable = not any(
            HeaderRole.NEVER_REMEMBERED in HEADERS[name] for name in read_names
        )
        return Template(prefix, suffix, pattern, read_names, common_request, rememberable)


@lru_cache(maxsize=256)
def _compile_pattern(
    names: tuple[bytes, ...], is_read: tuple[bool, ...]
) -> re.Pattern[bytes]:
    """
    Return a pattern of header lines with these names.

    @param is_read: for each line, whether its value is a group of the pattern.
    """
    lines = [
        re.escape(name) + (b": (%b)" if has_group else b": %b") % HEADER_VALUE
        for name, has_group in zip(names, is_read, strict=True)
    ]
    return re.compile(b"\r\n".join(lines))


def _prefer(connection: ConnectionMemory, template: Template) -> None:
    others = [other for other in connection.templates if other is not template]
    connection.templates = (template, *others[: MAX_TEMPLATES - 1])

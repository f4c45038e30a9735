"""
Plans, which say what requests mean.

The I{plan key} of a request has its method, path and version, and the meanings of the
headers that decide what the request means.  All requests with the same plan key mean the
same.

For the first request with a plan key, the server calls a handler of the Klein app.  If the
handler returns an operation on the cursor, the server remembers the plan with this
operation.  For a later request with this plan key, the server finds this plan in one of
three ways, the fastest first:

  1. by the exact bytes of the request, if these bytes are remembered;
  2. by a L{Template}, if the request differs from an earlier request in a few neighbouring
     lines only.  The bytes before and after these lines are compared as a whole, and only
     these lines are read;
  3. by the plan key, after the parser has read the whole head.

In the first two ways, the request is I{recognized}.  Earlier requests prepare this:

  - The parser remembers the lines of heads.  If it has read the same bytes twice and
    remembered all their lines, the bytes may be remembered.
  - Bytes that fit a template twice in succession may be remembered, too.
  - The other lines of a head are new to the parser.  If the new lines of two requests in
    succession have the same header names, a template may be made from the second request.

Bytes, templates and header names are shared: the earlier request may be another client's.
This is safe, because every byte of a recognized request is compared, except the values of
headers that do not decide what a request means.  So a request never gets the plan of
another plan key.

The memory for plans, bytes and templates is bounded, whatever clients send.  Lines with a
secret or an idempotency key are not remembered.  There is one exception: if the token is
the only value that the service reads in the varying lines of a template, the connection
remembers the bytes of its last accepted request.  A client sends the same token with every
step, and the check of the token takes a quarter of the CPU time of such a step.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hmac import compare_digest
from itertools import compress

from attrs import define, frozen

from pexservice.server.parser import (
    END_OF_LINE,
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

#: How many plans are remembered.  The service needs some hundreds of them: one for each
#: combination of a path, a method, a version and the meanings of the deciding headers.
MAX_PLANS = 4096

#: How many requests one generation of L{Plans.remembered_requests} has; see
#: L{GenerationalCache}.  The bytes of the requests in both generations take at most 8 MiB.
MAX_REMEMBERED_REQUESTS = 1024

#: A larger request is not recognized.
MAX_RECOGNIZED_BYTES = 4096

#: How many bytes a template has before and after its varying lines.
MAX_TEMPLATE_BYTES = 2048

#: How many lines of a template may vary.
MAX_VARYING_LINES = 4

#: How many templates a connection remembers.
MAX_TEMPLATES = 2

#: How many templates are made in a second, for all connections together.  Making a template
#: takes as long as parsing several heads.
MAX_NEW_TEMPLATES_PER_SECOND = 256

#: The lines with these headers never vary in a template.
_FIXED_HEADERS = frozenset(
    name
    for name, role in HEADERS.items()
    if name == HOST or role & (HeaderRole.DECIDES | HeaderRole.FRAMES)
)

#: A request with these headers is not remembered by its bytes.
_NEVER_REMEMBERED = frozenset(
    name for name, role in HEADERS.items() if HeaderRole.NEVER_REMEMBERED in role
)


@frozen(eq=False)
class Plan:
    """
    What the requests with one plan key mean, and what all their responses have in common.

    @ivar operation: the operation on the cursor.  C{None} if the request was refused, if
        its handler has not returned yet, or if its handler has returned a response.  A plan
        without an operation is used for one request only and is not remembered.
    @ivar tally: counts the responses.
    @ivar version: the version of HTTP, such as C{b"HTTP/1.1"}.
    @ivar connection_header: the value of the responses' C{Connection} header, if any.
    @ivar closes_connection: whether the connection ends after the response.
    @ivar browser_headers: the headers that browsers need in every response.
    @ivar omits_body: whether the responses have no body, because the request is a HEAD.
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
class RequestWithPlan:
    """
    A request with its plan.

    @ivar logged_line: the request line for the access log.
    @ivar checked_operation: the operation, if it has passed the check with these headers.
        If C{None}, the connection checks it.
    """

    plan: Plan
    headers: RequestHeaders
    logged_line: bytes
    checked_operation: CheckedOperation | None = None


@define(eq=False)
class Template:
    """
    The pattern of requests that differ in a few neighbouring header lines only.

    @ivar prefix: the bytes before the varying lines.
    @ivar suffix: the bytes after the varying lines.
    @ivar varying_pattern: the pattern of the varying lines.  The pattern has a group for
        each value that the service reads.
    @ivar read_names: the names of the headers with these values, in the order of the
        groups.
    @ivar common_request: the request without the headers of the varying lines.
    @ivar has_only_token: whether C{read_names} is only the token.
    @ivar remembers_bytes: whether a request that comes twice in succession is remembered by
        its exact bytes.
    @ivar latest_hash: if C{remembers_bytes}, the hash of the latest request.
    """

    prefix: bytes
    suffix: bytes
    varying_pattern: re.Pattern[bytes]
    read_names: tuple[bytes, ...]
    common_request: RequestWithPlan
    has_only_token: bool
    remembers_bytes: bool
    latest_hash: int = 0

    def match(self, data: bytes) -> RequestWithPlan | None:
        """
        Return the request with the bytes C{data}, or C{None} if the bytes do not match.
        """
        if not (data.startswith(self.prefix) and data.endswith(self.suffix)):
            return None
        match = self.varying_pattern.fullmatch(
            data, len(self.prefix), len(data) - len(self.suffix)
        )
        if match is None:
            return None
        request, names = self.common_request, self.read_names
        if not names:
            return request
        headers = request.headers.copy()
        for name, value in zip(names, match.groups(), strict=True):
            headers[name] = [value]
        return RequestWithPlan(request.plan, headers, request.logged_line)


class RememberingConnection:
    """
    The part of a connection that L{Plans} reads and writes.

    @ivar templates: the templates of the connection's requests, the latest one first.
    @ivar latest_new_names: the header names of those lines in the last parsed head that
        were new to the parser.
    @ivar token_request: the latest request with an accepted token and no key: its exact
        bytes, and the request.
    """

    templates: tuple[Template, ...]
    latest_new_names: tuple[bytes, ...]
    token_request: tuple[bytes, RequestWithPlan] | None


class Plans:
    """
    The plans of one worker.

    @ivar by_key: the plans by their plan keys.
    @ivar remembered_requests: requests by their exact bytes.
    @ivar reader: reads the heads of requests that are not recognized.
    """

    def __init__(self, checker: RequestChecker) -> None:
        self.remembered_requests: GenerationalCache[bytes, RequestWithPlan] = (
            GenerationalCache(MAX_REMEMBERED_REQUESTS)
        )
        self.reader = HeadReader(checker.deciding_headers())
        self._checker = checker
        self.by_key: dict[PlanKey, Plan] = {}
        # The hashes of requests that were parsed once.  If each request of a client has
        # another body, no such request displaces a remembered request.
        self._seen_once: GenerationalCache[int, bool] = GenerationalCache(
            MAX_REMEMBERED_REQUESTS
        )
        # The latest templates and names of all connections.  They help clients that open a
        # connection for each request.
        self._latest_templates: tuple[Template, ...] = ()
        self._latest_new_names: tuple[bytes, ...] = ()
        self._new_templates = 0
        self._remembers = True

    def tick(self) -> None:
        """
        Begin another second, in which L{MAX_NEW_TEMPLATES_PER_SECOND} may be made.
        """
        self._new_templates = 0

    def stop_remembering(self) -> None:
        """
        Forget everything, and remember nothing more.

        While the worker stops, every response must have C{Connection: close}.  Remembered
        plans would send responses without this header.
        """
        self._remembers = False
        self._latest_templates = ()
        self.by_key.clear()
        self.remembered_requests.clear()

    def recognize(
        self, data: bytes, connection: RememberingConnection
    ) -> RequestWithPlan | None:
        """
        Return the request with the bytes C{data}, if it is recognized.

        C{data} is compared with the connection's request with a token, with the
        connection's templates, and with the requests that are remembered by their exact
        bytes.  A connection without templates uses the latest templates of the worker.  The
        callers have already looked into the recent generation of the remembered requests.
        """
        if not self._remembers or len(data) > MAX_RECOGNIZED_BYTES:
            return None
        token_request = connection.token_request
        # The duration of compare_digest tells a client nothing about the token.
        if token_request is not None and compare_digest(token_request[0], data):
            return token_request[1]
        templates = connection.templates
        for template in templates or self._latest_templates:
            request = template.match(data)
            if request is not None:
                if not templates or templates[0] is not template:
                    _move_to_front(connection, template)
                if template.has_only_token:
                    if self._check_in_advance(request):
                        connection.token_request = (data, request)
                elif template.remembers_bytes:
                    latest_hash, template.latest_hash = template.latest_hash, hash(data)
                    if template.latest_hash == latest_hash:
                        self._remember_bytes(data, request)
                return request
        return self.remembered_requests.get(data)

    def add(self, key: PlanKey, plan: Plan) -> None:
        if self._remembers and len(self.by_key) < MAX_PLANS:
            self.by_key[key] = plan

    def remember(
        self, data: bytes, head: Head, plan: Plan, connection: RememberingConnection
    ) -> RequestWithPlan:
        """
        Return the request with C{head}, and prepare to recognize similar requests.

        @param data: the exact bytes of the request, or C{b""} if these are not available.
        """
        request = RequestWithPlan(plan, head.headers, head.line.logged_line)
        if not (data and self._remembers) or len(data) > MAX_RECOGNIZED_BYTES:
            connection.latest_new_names = ()
        elif head.new_lines is not None:
            self._remember_template(data, head, request, connection)
        elif self._seen_once.get(hash(data)):
            self._remember_bytes(data, request)
        else:
            self._seen_once.put(hash(data), True)  # noqa: FBT003 only the key counts
        return request

    def _remember_bytes(self, data: bytes, request: RequestWithPlan) -> None:
        if self._check_in_advance(request):
            self.remembered_requests.put(data, request)

    def _check_in_advance(self, request: RequestWithPlan) -> bool:
        """
        Check the operation of C{request} for all later requests with the same headers.

        A problem is ignored here.  L{Connection.perform
        <pexservice.server.connection.Connection.perform>} checks a request without a
        checked operation again, in the right order, and the client gets that problem.

        @return: whether C{request} now has the checked operation.
        """
        operation, headers = request.plan.operation, request.headers
        try:
            if operation is not None:
                request.checked_operation = self._checker.check_operation(
                    operation, headers
                )
        except Problem:
            pass
        return request.checked_operation is not None

    def _remember_template(
        self,
        data: bytes,
        head: Head,
        request: RequestWithPlan,
        connection: RememberingConnection,
    ) -> None:
        """
        Make a template if the new lines have the same names as those of the last head.
        """
        first, last = head.new_lines or (0, 0)
        if first == 0 or last - first >= MAX_VARYING_LINES:
            # The request line itself is new, or there are too many new lines.
            connection.latest_new_names = ()
            return
        lines = head.lines[first : last + 1]
        names = tuple([line.partition(b": ")[0] for line in lines])
        # A new connection uses the names of another connection's last request.
        last_names = connection.latest_new_names or self._latest_new_names
        connection.latest_new_names = self._latest_new_names = names
        if names != last_names or self._new_templates >= MAX_NEW_TEMPLATES_PER_SECOND:
            return
        prefix = END_OF_LINE.join([*head.lines[:first], b""])
        suffix = data[len(prefix) + len(END_OF_LINE.join(lines)) :]
        headers = request.headers.copy()
        if len(prefix) + len(suffix) > MAX_TEMPLATE_BYTES or not all(
            _may_vary(line, headers) for line in lines
        ):
            return
        is_read = tuple([headers.pop(name.lower(), None) is not None for name in names])
        common_request = RequestWithPlan(request.plan, headers, request.logged_line)
        read_names = tuple([name.lower() for name in compress(names, is_read)])
        if not read_names:
            self._check_in_advance(common_request)
        template = Template(
            prefix,
            suffix,
            varying_pattern=_compile_pattern(names, is_read),
            read_names=read_names,
            common_request=common_request,
            has_only_token=read_names == (AUTHORIZATION,),
            remembers_bytes=bool(read_names)
            and _NEVER_REMEMBERED.isdisjoint(map(bytes.lower, names)),
        )
        self._new_templates += 1
        _move_to_front(connection, template)
        self._latest_templates = template, *self._latest_templates[: MAX_TEMPLATES - 1]


def _may_vary(line: bytes, headers: RequestHeaders) -> bool:
    """
    Return whether a header line of a request may vary in a template.

    The line must have the form C{name: value}.  If the service reads the header, no other
    line may have the same name.

    @param headers: the headers of the request.
    """
    name, separator, _ = line.partition(b": ")
    key = name.lower()
    is_single = len(headers.get(key, (b"",))) == 1
    return bool(separator) and key not in _FIXED_HEADERS and is_single


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


def _move_to_front(connection: RememberingConnection, template: Template) -> None:
    others = [other for other in connection.templates if other is not template]
    connection.templates = (template, *others[: MAX_TEMPLATES - 1])

"""
Recognition: the server finds a request by its bytes, and need not parse it.

This only saves time: the L{plan<pexservice.server.plans.Plan>} and the response are as they
would be after parsing.  A request is recognized in two cases:

  - Its bytes are remembered, because the same bytes arrived before; see L{RequestCache}.
  - Its bytes match a L{Template}.  They differ from the bytes of an earlier request only in
    a few neighbouring lines.  For example::

          prefix          POST /next HTTP/1.1
                          Host: localhost:8081
                          User-Agent: python-requests/2.32.3
                          Accept: application/json
          varying lines   Idempotency-Key: 8e03978e-40d5-43e8-bc93-6894a57f9324
                          X-Request-ID: 4f6dc1e2
          suffix          Content-Type: application/json
                          Content-Length: 2

                          {}

    The prefix and the suffix are compared as a whole.  Of the varying lines, the service
    reads the value of the idempotency key, and ignores the other line.

The first request of a kind is always parsed.  What is remembered then depends on the
L{parser<pexservice.server.parser.HeadReader>}, which caches single lines of requests:

  - If all lines of a request are in the parser's caches, the request cache remembers a hash
    of its bytes.  When the same bytes come again, it remembers the request, so the third
    request is recognized.  Some requests that match a template are remembered in the same
    way; see L{Template.remembers_matches}.
  - A line that the parser did not find in its caches is I{uncached}.  If two requests, one
    after the other, have uncached lines with the same header names, these lines become the
    varying lines of a template.

All connections share the request cache, and a new connection begins with the templates of
other connections.  So a client's request may match a template that was made from a request
of another client.  This is safe, because a varying line never decides which plan a request
has.  If the service reads the value of a varying line, it takes the value from the request
itself.

The memory for bytes and templates is bounded, whatever clients send.  An idempotency key is
never remembered here, and a secret only in L{Recognizer.authorized_request}.

The result of the checks of a remembered request is remembered too, unless a check fails.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hmac import compare_digest

from attrs import frozen

from pexservice.commit.interface import Waiter
from pexservice.server.parser import (
    END_OF_LINE,
    HEADER_VALUE,
    NEVER_CACHED_HEADERS,
    GenerationalCache,
    Head,
    PlanKey,
)
from pexservice.server.plans import MAX_PLANS, Plan, PreparedRequest
from pexservice.web.operations import CheckedOperation, RequestChecker
from pexservice.web.parameters import (
    AUTHORIZATION,
    HEADERS,
    HOST,
    HeaderRole,
    RequestHeaders,
)

#: How many requests one of the two generations of L{RequestCache.by_bytes} has.  The bytes
#: of both take at most 8 MiB.
MAX_CACHED_REQUESTS = 1024

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


@frozen(eq=False)
class Template:
    """
    A pattern of requests that differ only in a few neighbouring header lines.

    @ivar prefix: the bytes before the varying lines.
    @ivar suffix: the bytes after the varying lines.
    @ivar varying_pattern: matches the varying lines.  Each value that the service reads is
        a group.
    @ivar read_names: for each group, the name of the header.
    @ivar plan: the plan of all these requests.
    @ivar common_request: the request without the headers of the varying lines.
    @ivar remembers_matches: whether the bytes of a matching request are remembered.  They
        are if they are likely to come again, but never with an idempotency key.
    """

    prefix: bytes
    suffix: bytes
    varying_pattern: re.Pattern[bytes]
    read_names: tuple[bytes, ...]
    plan: Plan
    common_request: PreparedRequest
    remembers_matches: bool

    def match(self, data: bytes, cache: RequestCache) -> PreparedRequest | None:
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
        headers = {**request.headers}
        for name, value in zip(names, match.groups(), strict=True):
            headers[name] = [value]
        return cache.prepare(self.plan, headers, request.logged_line)


class RequestCache:
    """
    The plans and the requests that all connections of one worker remember together.

    A client may open a connection for each request.  So the cache also keeps templates and
    C{uncached_names} for new connections.

    @ivar plans: the plans by their keys.
    @ivar by_bytes: the requests by their exact bytes.
    @ivar latest_templates: the latest templates of all connections.
    @ivar uncached_names: the header names of the uncached lines of the latest parsed
        request of any connection.
    @ivar new_templates: how many templates were made in this second.
    @ivar is_stopped: whether nothing is remembered any more.
    """

    def __init__(self, checker: RequestChecker) -> None:
        self._checker = checker
        self.plans: dict[PlanKey, Plan] = {}
        self.by_bytes: GenerationalCache[bytes, PreparedRequest] = GenerationalCache(
            MAX_CACHED_REQUESTS
        )
        # The hashes of requests that came once.  If one comes again, by_bytes gets it.
        self._seen_once: GenerationalCache[int, bool] = GenerationalCache(
            MAX_CACHED_REQUESTS
        )
        self.latest_templates: tuple[Template, ...] = ()
        self.uncached_names: tuple[bytes, ...] = ()
        self.new_templates = 0
        self.is_stopped = False

    def tick(self) -> None:
        """
        Begin a second, in which L{MAX_NEW_TEMPLATES_PER_SECOND} templates may be made.
        """
        self.new_templates = 0

    def stop(self) -> None:
        """
        Forget all plans and requests, and remember no more.

        When the worker stops, every response must have C{Connection: close}.  The responses
        of remembered plans would not have this header.
        """
        self.is_stopped = True
        self.plans.clear()
        self.latest_templates = ()
        self.by_bytes.clear()

    def prepare(
        self, plan: Plan, headers: RequestHeaders, logged_line: bytes
    ) -> PreparedRequest:
        """
        Return a request whose operation has been checked.

        The rate and the C{Host} must be checked first, and are not checked yet.  So an
        error of this check is dropped.  When the operation is started, the check is
        repeated, and raises the error again.
        """
        try:
            operation = self._checker.check_operation(plan.operation, headers)
        except Exception:  # noqa: BLE001 it is raised again

            def check_and_start(waiter: Waiter) -> None:
                self._checker.check_operation(plan.operation, headers).start(waiter)

            operation = CheckedOperation(check_and_start, must_check_rate_and_host=True)
        return PreparedRequest(plan.response_format, headers, logged_line, operation)

    def remember_if_repeated(self, data: bytes, request: PreparedRequest) -> None:
        """
        Remember C{request} at the second call with C{data}.
        """
        if self._seen_once.get(hash(data)):
            self.by_bytes.put(data, request)
        else:
            self._seen_once.put(hash(data), True)  # noqa: FBT003 only the key counts

    def add_template(
        self, prefix: bytes, suffix: bytes, names: tuple[bytes, ...], head: Head, plan: Plan
    ) -> Template:
        """
        Make a template, which the request with C{head} matches.

        @param names: the header names of the varying lines.
        """
        headers, logged_line = head.headers, head.request_line.logged_line
        keys = [name.lower() for name in names]
        read_names = tuple([key for key in keys if key in headers])
        common_headers = {key: headers[key] for key in headers if key not in read_names}
        # Without read_names, match() makes no new request, so there is nothing to remember.
        has_cacheable_values = bool(read_names) and NEVER_CACHED_HEADERS.isdisjoint(keys)
        template = Template(
            prefix,
            suffix,
            varying_pattern=_compile_pattern(names, read_names),
            read_names=read_names,
            plan=plan,
            common_request=self.prepare(plan, common_headers, logged_line),
            remembers_matches=has_cacheable_values or read_names == (AUTHORIZATION,),
        )
        self.new_templates += 1
        self.latest_templates = _put_first(template, self.latest_templates)
        return template


class Recognizer:
    """
    Finds one connection's requests by their bytes without parsing, or finds their plans.

    @ivar templates: the templates of the connection's requests, the latest one first.
    @ivar uncached_names: the header names of the L{uncached lines<Head.uncached_range>} of
        the latest parsed request.
    @ivar authorized_request: two things of the latest request with a token and without an
        idempotency key: its exact bytes, and the request.  A client sends the same token
        with every step, and the check of the token takes a quarter of the CPU time of such
        a step.
    """

    # Slots save memory: there may be 10,000 idle connections.
    __slots__ = ("_cache", "authorized_request", "templates", "uncached_names")

    def __init__(self, cache: RequestCache) -> None:
        self._cache = cache
        self.templates: tuple[Template, ...] = ()
        self.uncached_names: tuple[bytes, ...] = ()
        self.authorized_request: tuple[bytes, PreparedRequest] | None = None

    def find(self, data: bytes) -> PreparedRequest | None:
        """
        Return the request whose bytes are C{data}; C{None} if they are not recognized.

        A connection without templates uses the latest templates of the worker.
        """
        cache = self._cache
        # Most requests have the same bytes as an earlier one.
        request = cache.by_bytes.recent.get(data)
        if request is not None:
            return request
        if cache.is_stopped or len(data) > MAX_RECOGNIZED_BYTES:
            return None
        authorized = self.authorized_request
        # The duration of compare_digest tells a client nothing about the token.
        if authorized is not None and compare_digest(authorized[0], data):
            return authorized[1]
        templates = self.templates
        for template in templates or cache.latest_templates:
            request = template.match(data, cache)
            if request is not None:
                if not templates or templates[0] is not template:
                    self.templates = _put_first(template, templates)
                if template.remembers_matches:
                    if template.read_names == (AUTHORIZATION,):
                        self.authorized_request = data, request
                    else:
                        cache.remember_if_repeated(data, request)
                return request
        return cache.by_bytes.get(data)

    def remember_plan(self, head: Head, plan: Plan) -> None:
        cache = self._cache
        if len(cache.plans) < MAX_PLANS and not cache.is_stopped:
            cache.plans[head.plan_key] = plan

    def find_by_plan(self, head: Head, whole_read: bytes) -> PreparedRequest | None:
        """
        Return the request with C{head}; C{None} if there is no plan for it.

        If C{whole_read} has the bytes of this request, prepare to recognize later requests
        that are equal or similar.

        @param whole_read: the bytes of one read, if it brought this request and nothing
            else; otherwise C{b""}.
        """
        cache = self._cache
        plan = cache.plans.get(head.plan_key)
        if plan is None:
            return None
        request = cache.prepare(plan, head.headers, head.request_line.logged_line)
        # If an empty line comes before the head, the bytes are not remembered.
        if whole_read.startswith(head.lines[0]) and len(whole_read) <= MAX_RECOGNIZED_BYTES:
            if head.uncached_range is None:
                cache.remember_if_repeated(whole_read, request)
            else:
                self._remember_template(whole_read, head, *head.uncached_range, plan)
        return request

    def _remember_template(
        self, data: bytes, head: Head, begin: int, end: int, plan: Plan
    ) -> None:
        """
        Make a template, if the uncached lines have the same header names as last time.

        @param begin: the index of the first uncached line.
        @param end: the index after the last uncached line.
        """
        # A request line never varies in a template.
        if begin == 0 or end - begin > MAX_VARYING_LINES:
            return
        cache, lines = self._cache, head.lines[begin:end]
        names = tuple([line.partition(b": ")[0] for line in lines])
        # A new connection uses the names of another connection's last request.
        previous_names = self.uncached_names or cache.uncached_names
        self.uncached_names = cache.uncached_names = names
        if names != previous_names or cache.new_templates >= MAX_NEW_TEMPLATES_PER_SECOND:
            return
        if not all(_may_vary(line, head.headers) for line in lines):
            return
        prefix = END_OF_LINE.join([*head.lines[:begin], b""])
        suffix = data[len(prefix) + len(END_OF_LINE.join(lines)) :]
        if len(prefix) + len(suffix) > MAX_TEMPLATE_BYTES:
            return
        template = cache.add_template(prefix, suffix, names, head, plan)
        self.templates = _put_first(template, self.templates)


def _put_first(template: Template, templates: tuple[Template, ...]) -> tuple[Template, ...]:
    others = [other for other in templates if other is not template]
    return (template, *others[: MAX_TEMPLATES - 1])


def _may_vary(line: bytes, headers: RequestHeaders) -> bool:
    """
    Return whether a header line of a request may vary in a template.

    The line must have the form C{name: value}.  If the service reads the header, the
    request must have only one line with this name.

    @param headers: the headers of the request.
    """
    name, separator, _ = line.partition(b": ")
    key = name.lower()
    is_single = len(headers.get(key, (b"",))) == 1
    return bool(separator) and key not in _FIXED_HEADERS and is_single


@lru_cache(maxsize=256)
def _compile_pattern(
    names: tuple[bytes, ...], read_names: tuple[bytes, ...]
) -> re.Pattern[bytes]:
    """
    Return a pattern of header lines with these names.

    @param read_names: the names in small letters of those headers whose values are groups
        of the pattern.
    """
    lines = [
        re.escape(name)
        + (b": (%b)" if name.lower() in read_names else b": %b") % HEADER_VALUE
        for name in names
    ]
    return re.compile(b"\r\n".join(lines))

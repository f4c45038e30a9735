"""
Templates: the server finds the plan of a request that only resembles an earlier request.

The bytes of the two requests differ only in a few neighbouring lines.  For example::

    prefix          POST /next HTTP/1.1
                    Host: localhost:8081
                    User-Agent: python-requests/2.32.3
                    Accept: application/json
    varying lines   Idempotency-Key: 8e03978e-40d5-43e8-bc93-6894a57f9324
                    X-Request-ID: 4f6dc1e2
    suffix          Content-Type: application/json
                    Content-Length: 2

                    {}

The prefix and the suffix are compared as a whole.  Of the varying lines, the service uses
the value of the idempotency key, and ignores the other line.

A line that the L{parser<pexservice.server.parser.HeadReader>} did not find in its caches is
I{uncached}.  If two requests, one after the other, have uncached lines with the same header
names, these lines become the varying lines of a template.  There are three classes of
headers::

    header                                    may vary   in remembered bytes
    decides the plan, frames, or is Host      no         yes
    is a secret, or rarely comes twice        yes        no
    any other header                          yes        yes

A new connection begins with the templates of other connections.  So a request of one client
may match a template that was made from a request of another client.  This is safe, because
a varying line never decides which plan a request has.  If the service uses the value of a
varying line, it takes the value from the request itself.
"""

from __future__ import annotations

import re

from attrs import frozen

from pexservice.server.parser import END_OF_LINE, HEADER_VALUE, NEVER_CACHED_HEADERS, Head
from pexservice.server.plans import Plan, PreparedRequest
from pexservice.web.parameters import AUTHORIZATION, HEADERS, HOST, HeaderRole

#: How many bytes a template has before and after its varying lines.
MAX_TEMPLATE_BYTES = 2048

#: How many lines of a template may vary.
MAX_VARYING_LINES = 4

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
    @ivar varying_pattern: matches the varying lines.  Each value that the service uses is a
        group.
    @ivar used_names: for each group, the name of the header.
    @ivar plan: the plan of all these requests.
    @ivar common_request: the request without the headers of the varying lines.
    @ivar remembers_matches: whether the bytes of a matching request are likely to come
        again, and contain neither a secret nor an idempotency key.
    @ivar uses_only_token: whether the service uses a token, and no other value.
    """

    prefix: bytes
    suffix: bytes
    varying_pattern: re.Pattern[bytes]
    used_names: tuple[bytes, ...]
    plan: Plan
    common_request: PreparedRequest
    remembers_matches: bool
    uses_only_token: bool

    def match(self, data: bytes) -> PreparedRequest | None:
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
        request, names = self.common_request, self.used_names
        if not names:
            return request
        headers = {**request.headers}
        for name, value in zip(names, match.groups(), strict=True):
            headers[name] = [value]
        return self.plan.prepare(headers, request.logged_line)


def varying_names(head: Head) -> tuple[bytes, ...]:
    """
    Return the header names of the lines from the first uncached line to the last one.

    There are none if these lines cannot vary in a template: a request line never varies,
    and at most L{MAX_VARYING_LINES} lines vary.

    @param head: a head with an uncached line.
    """
    begin, end = head.uncached[0], head.uncached[-1] + 1
    if begin == 0 or end - begin > MAX_VARYING_LINES:
        return ()
    return tuple([line.partition(b": ")[0] for line in head.lines[begin:end]])


def make_template(
    data: bytes, head: Head, names: tuple[bytes, ...], plan: Plan
) -> Template | None:
    """
    Make a template, which the request with the bytes C{data} matches.

    @param names: the L{varying_names} of the head.
    @return: the template; C{None} if a line may not vary, or the request is too large.
    """
    begin, end = head.uncached[0], head.uncached[-1] + 1
    lines, headers = head.lines[begin:end], head.headers
    keys = [name.lower() for name in names]
    may_vary = (
        _FIXED_HEADERS.isdisjoint(keys)
        # The pattern takes one value for each header that the service uses.
        and all(len(headers.get(key, ())) <= 1 for key in keys)
        and all(b": " in line for line in lines)
    )
    prefix = b"".join([line + END_OF_LINE for line in head.lines[:begin]])
    suffix = data[len(prefix) + len(END_OF_LINE.join(lines)) :]
    if not may_vary or len(prefix) + len(suffix) > MAX_TEMPLATE_BYTES:
        return None
    used_names = tuple([key for key in keys if key in headers])
    common_headers = {key: headers[key] for key in headers if key not in used_names}
    return Template(
        prefix,
        suffix,
        varying_pattern=_compile_pattern(names, used_names),
        used_names=used_names,
        plan=plan,
        common_request=plan.prepare(common_headers, head.request_line.logged_line),
        # Without used_names, match() makes no new request, so there is nothing to remember.
        remembers_matches=bool(used_names) and NEVER_CACHED_HEADERS.isdisjoint(keys),
        uses_only_token=used_names == (AUTHORIZATION,),
    )


def _compile_pattern(
    names: tuple[bytes, ...], used_names: tuple[bytes, ...]
) -> re.Pattern[bytes]:
    """
    Return a pattern of header lines with these names.

    @param used_names: the names in small letters of those headers whose values are groups
        of the pattern.
    """
    lines = [
        re.escape(name)
        + (b": (%b)" if name.lower() in used_names else b": %b") % HEADER_VALUE
        for name in names
    ]
    return re.compile(b"\r\n".join(lines))

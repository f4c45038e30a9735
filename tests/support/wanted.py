"""
The differences from version 0.1.0 that are wanted.

A change of what callers or operators see needs an entry here, with the issue that asks
for it: then L{tests.functional.test_oracle} lets the difference pass.  An entry that is
not needed is an error, too.

The names of cases begin with their group and a slash: the name of a setup of
L{tests.support.setups}, C{start}, C{help}, C{metrics}, C{openapi} or C{access log}.
The case of a difference is named in the message of the test that fails.  All ways to take
a difference back are in L{tests.support.differences}.

Some entries as they might be::

    Wanted("issue 13.7", added_header("X-Content-Type-Options", "nosniff")),
    Wanted("issue 13.6", instead("200 200 200", "403 403 200"), "*POST /next Sec-*"),
    Wanted("issue 14.5", newline_behind("application/problem+json")),
    Wanted("issue 18.1", added, "help/* --config *"),
    Wanted("issue 14.8", reworded, "help/* --journal N"),
    Wanted("issue 14.8", words("slow down", "wait and try again")),
"""

from __future__ import annotations

from importlib.metadata import version

from tests.support.differences import (
    Wanted,
    added,
    added_header,
    added_lines,
    changed_header,
    changed_status,
    instead,
    moved_ahead,
    newline_behind,
    removed,
    reordered,
    reworded,
    words,
)

_CROSS_ORIGIN = (
    "a web page of another origin may not move the cursor; the service's operator can"
    " name its origin in --cors-origin"
)
_PREFETCH = "a prefetch may not move the cursor; send the request when it is meant"
_ACCEPTED = "Accept, Authorization, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID"

_VERSION = version("pexservice")

_FILES = "files, and whether they are as before: {'pexservice-data/data.mdb': False, %s}"

WANTED: tuple[Wanted, ...] = (
    # First, for the entries that compare the order of headers ask for the same length.
    Wanted("issue 16.9", newline_behind("application/json")),
    Wanted("issue 16.9", newline_behind("application/problem+json")),
    Wanted("issue 14.5: groups in plain English", removed, "help/* line: *"),
    Wanted("issue 14.5: groups in plain English", added, "help/* line: *"),
    Wanted("issue 14.5: groups in plain English", reworded, "help/* --*"),
    Wanted("issue 18.2", added, "help/* --config FILE"),
    Wanted("issue 18.12", words(" 0.1.0", f" {_VERSION}"), "help/* version"),
    Wanted("issue 18.12", words('"0.1.0"', f'"{_VERSION}"'), "metrics/*_build_info"),
    Wanted("design 2.5", changed_status("exit status 1", "exit status 64"), "start/*"),
    Wanted("issue 14.4", added, "help/pexservice-worker --supervisor N"),
    Wanted(
        "issue 14.4",
        added_lines('reason="misconfigured".*'),
        "metrics/pexservice_worker_restarts_total",
    ),
    Wanted("issue 14.4", added, "metrics/pexservice_reloads_total*"),
    Wanted("issue 14.4", added, "metrics/pexservice_last_reload*"),
    Wanted("issue 16.8", reworded, "start/*an option *"),
    Wanted("issue 16.8", reworded, "start/*an address *"),
    Wanted("issue 16.8", reworded, "start/*a store of no kind"),
    Wanted("issue 16.8", reworded, "start/many standbys"),
    Wanted("issue 14.6: a store says what its URL is", reworded, "start/*without a place"),
    Wanted("issue 12.3", reworded, "start/*a damaged store"),
    # Beside the store there is a witness of its newest commit.
    Wanted(
        "issue 12.3",
        changed_status(
            _FILES % "'pexservice-data/lock.mdb': False",
            _FILES % "'pexservice-data/lock.mdb': False, 'pexservice-data/newest': False",
        ),
        "start/*",
    ),
    Wanted("issue 13.7", added_header("X-Content-Type-Options", "nosniff")),
    Wanted("issue 13.7", added_header("Cross-Origin-Resource-Policy", "same-origin")),
    # One of these headers stood last in the page's answer.
    Wanted("issue 13.7", reordered, "*/* / Accept: text/html"),
    Wanted(
        "issue 13.7",
        changed_header(
            "Access-Control-Allow-Headers",
            _ACCEPTED,
            _ACCEPTED.replace("Idempotency", "Content-Type, Idempotency"),
        ),
    ),
    *(
        Wanted("issue 13.6", instead("?0[01] *", "403 *", says))
        for says in (_CROSS_ORIGIN, _PREFETCH)
    ),
    Wanted(
        "issue 13.6",
        instead("200", "403 200", _CROSS_ORIGIN.replace("move", "watch")),
        "*attack: a stream for another site",
    ),
    Wanted(
        "issue 13.6",
        words(
            "a GET that moves the cursor is refused from another site; use POST",
            _CROSS_ORIGIN,
        ),
    ),
    Wanted(
        "issue 13.6",
        words("a GET that moves the cursor is refused as a prefetch; use POST", _PREFETCH),
    ),
    Wanted("issue 13.6", removed, 'access log/*T /next HTTP/1.1" ??? *'),
    Wanted("issue 13.6", added, 'access log/*T /next HTTP/1.1" 403 *'),
    Wanted("issue 13.6", added_lines("403 .*"), "openapi/POST *"),
    Wanted("issue 13.6", added_lines("403 .*"), "openapi/GET /events"),
    Wanted("issue 13.5", added_lines("421 .*"), "openapi/*"),
    Wanted("issue 13.5", instead("200 *", "421 *", "name the host in --allowed-host")),
    Wanted("issue 13.5", added, "help/* --allowed-host *"),
    # One writer makes all heads, and Connection stood at their end where Twisted wrote it.
    Wanted("issue 14.3", moved_ahead("Connection", "Date")),
    Wanted("issue 13.7", instead("404 *", "400", "a request target is a path")),
    Wanted("issue 13.7", instead("400", "431"), "*attack: * trailer*"),
    Wanted("issue 13.7", instead("100 200 200", "200 200"), "*attack: asking without*"),
    Wanted("issue 13.7", instead("404 200", "405"), "*attack: CONNECT to a host"),
    Wanted("issue 13.7", instead("404 404 200", "405"), "*/CONNECT [*]*"),
    # Twisted waits for a chunk of any size.
    Wanted("issue 13.7", instead("nothing more came", "413"), "*attack: * size *"),
    Wanted("issue 13.6", added, "help/* --post-only"),
    *(
        Wanted("issue 16.9", undo, f"*/* /*z* {case}")
        for case in ("*application/*", "as JSON*")
        for undo in (
            changed_header("Content-Type", "text/plain; charset=utf-8", "application/json"),
            reworded,
        )
    ),
    Wanted("issue 16.6", added_lines("query workers"), "openapi/GET /events"),
    Wanted("issue 16.7", added, "help/* --log-format *"),
    Wanted(
        "issue 16.9", added_lines("(200|503) content application/json"), "openapi/* /*z"
    ),
    Wanted("issue 14.7", added_lines("304 headers .*"), "openapi/* /openapi.json"),
)

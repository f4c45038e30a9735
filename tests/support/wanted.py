"""
The differences from the last release that are wanted.

A change of what clients or operators see needs an entry here, with its reason: then
L{tests.functional.test_oracle} lets the difference pass.  An entry that is not needed is
an error, too.

The names of cases begin with their group and a slash: the name of a setup of
L{tests.support.setups}, C{start}, C{help}, C{metrics}, C{openapi} or C{access log}.
The case of a difference is named in the message of the test that fails.  All ways to take
a difference back are in L{tests.support.differences}.

Some entries as they might be::

    Wanted("no sniffing", added_header("X-Content-Type-Options", "nosniff")),
    Wanted("cross origin", instead("200 200 200", "403 403 200"), "*POST /next Sec-*"),
    Wanted("a newline ends it", newline_behind("application/problem+json")),
    Wanted("a new option", added, "help/* --config *"),
    Wanted("clearer help", reworded, "help/* --journal N"),
    Wanted("clearer words", words("slow down", "wait and try again")),
"""

from __future__ import annotations

from importlib.metadata import version

from tests.support.differences import Wanted, removed, words
from tests.support.installation import RELEASE

_VERSION = version("pexservice")

WANTED: tuple[Wanted, ...] = (
    Wanted("version", words(f" {RELEASE}", f" {_VERSION}"), "help/* version"),
    Wanted("version", words(f'"{RELEASE}"', f'"{_VERSION}"'), "metrics/*_build_info"),
    Wanted(
        "0.1.0 is not upgraded any more", removed, "help/pexservice-worker --lifeline N"
    ),
)

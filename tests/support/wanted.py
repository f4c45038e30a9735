"""
The differences from version 0.1.0 that are wanted.

Whoever changes what callers or operators see adds an entry here, with the issue that
asks for it: then L{tests.functional.test_oracle} lets it pass.  An entry that is not
needed is an error, too.

The names of cases begin with their group and a slash: the name of a setup of
L{tests.support.setups}, C{start}, C{help}, C{metrics}, C{openapi} or C{access log}.
What a difference is called is in the message of the test that fails.  All ways to take
one back are in L{tests.support.differences}.

Some entries as they might be::

    Wanted("issue 13.7", added_header("X-Content-Type-Options", "nosniff")),
    Wanted("issue 13.6", instead("200 200 200", "403 403 200"), "*POST /next Sec-*"),
    Wanted("issue 14.5", newline_behind("application/problem+json")),
    Wanted("issue 18.1", added, "help/* --config *"),
    Wanted("issue 14.8", reworded, "help/* --journal N"),
    Wanted("issue 14.8", words("slow down", "wait and try again")),
"""

from __future__ import annotations

from tests.support.differences import Wanted

WANTED: tuple[Wanted, ...] = ()

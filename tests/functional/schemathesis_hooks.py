"""
Hooks for schemathesis, which imports this module; see test_openapi.py.

Its coverage phase knows no way to make a header that must have quotation marks in it, and
sends C{0} instead.  So the document gives lists of entity tags a format, and this module
makes values of that format.
"""

from __future__ import annotations

import schemathesis
from hypothesis import strategies

from pexservice.web.openapi import document

schemathesis.openapi.format(
    "entity-tags",
    strategies.from_regex(
        document()["components"]["schemas"]["EntityTags"]["pattern"], fullmatch=True
    ),
)

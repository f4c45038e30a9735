"""
The ways in which a verb of C{pexctl} ends: with a result, or with a failure.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field, frozen

#: The exit status for wrong arguments, also for those that only a running verb finds.
WRONG_ARGUMENTS = 2

#: The exit statuses EX_UNAVAILABLE, for a service that does not answer as one, and
#: EX_TEMPFAIL, for a step of unknown outcome.
UNREACHABLE = 69
UNKNOWN = 75


@frozen
class Result:
    """
    The result of a verb.

    @ivar line: the text for people.
    @ivar found: the object for programs, which ask for it with C{--json}.
    """

    line: str
    found: Mapping[str, object] = field(factory=dict)


@define(eq=False)
class VerbFailed(Exception):
    """
    The failure of a verb.

    @ivar message: one line that says what is wrong, and where.
    @ivar outcome: the failure in one word, for programs.
    @ivar exit_status: one of those that C{pexctl --help} lists.
    @ivar found: further members of the object for programs.
    """

    message: str
    outcome: str = "failed"
    exit_status: int = 1
    found: Mapping[str, object] = field(factory=dict)

    def __str__(self) -> str:
        return self.message

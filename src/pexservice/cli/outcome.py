"""
How a verb of C{pexctl} ended: with a result, or with what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field, frozen


@frozen
class Result:
    """
    What a verb found or did.

    @ivar line: for people.
    @ivar found: for programs, who ask for it with C{--json}.
    """

    line: str
    found: Mapping[str, object] = field(factory=dict)


@define(eq=False)
class VerbFailed(Exception):
    """
    A verb could not do what it was asked for.

    @ivar message: one line that says what is wrong, and names it.
    @ivar outcome: the same in one word, for programs.
    @ivar exit_status: one of those that C{pexctl --help} lists.
    @ivar found: what else programs are told.
    """

    message: str
    outcome: str = "failed"
    exit_status: int = 1
    found: Mapping[str, object] = field(factory=dict)

    def __str__(self) -> str:
        return self.message

"""
An executor that makes every call in the calling thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, execute

from pexservice.stores.lmdb.executor import CommitExecutor
from tests.support.fakes import Mailbox

T = TypeVar("T")


class InlineExecutor(CommitExecutor):
    def run(self, call: Callable[[], T]) -> Deferred[T]:
        return execute(call)

    run_in_new_thread = run


def inline() -> InlineExecutor:
    return InlineExecutor(Mailbox())

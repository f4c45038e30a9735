"""
What the supervisor decides by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

from twisted.internet.error import ProcessTerminated
from twisted.python.failure import Failure

from pexservice.leaving import Leaving, Status
from pexservice.notify import Listener
from pexservice.settings import Settings, Supervision
from pexservice.supervisor import Supervisor
from tests.test_spawning import Processes


def test_a_suspicious_end_counts_at_once() -> None:
    """
    Who waits for a worker to leave, as a replacement of the workers does, starts one
    that looks at the whole store if the store failed.
    """
    leaving = cast(Leaving, SimpleNamespace(leaving=False))
    supervisor = Supervisor(Settings(), Supervision(), Processes(), leaving)
    supervisor._listener = cast(Listener, SimpleNamespace(name="@nowhere"))
    commands: list[Sequence[str]] = []

    def start(_: None) -> None:
        commands.append(supervisor.command("worker-2").arguments)

    supervisor._crew.change().addCallback(start)
    assert "--quick-check" in supervisor.command("worker-1").arguments
    supervisor.ended("worker-1", Failure(ProcessTerminated(Status.STORE_FAILED)))
    assert ["--quick-check" in each for each in commands] == [False]

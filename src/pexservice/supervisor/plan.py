"""
The plan by which workers are started, which a reload may change, and a worker's command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen


@frozen(kw_only=True)
class WorkerPlan:
    """
    The options, as far as starting and watching workers depends on them.

    @ivar worker: the command that starts a worker, without the options that a supervisor
        adds.
    @ivar watchdog: seconds of silence after which a worker is replaced.
    @ivar standby: how many standbys there should be.
    @ivar restart_pending: the options that have changed since the service started and
        whose change requires a restart.
    @ivar settings: the settings that the plan was made from.
    """

    worker: Sequence[str]
    watchdog: float
    standby: int
    restart_pending: tuple[str, ...] = ()
    settings: object = None

    @property
    def note(self) -> str:
        """
        Return a sentence on the options that wait for a restart, or an empty string.
        """
        if not self.restart_pending:
            return ""
        return f"changing {' and '.join(self.restart_pending)} requires a restart"


@frozen
class Command:
    """
    The command that starts a worker.

    @ivar descriptors: the file descriptors that the worker inherits in addition to its
        output and its messages: the number there, and ours.
    @ivar verifies: whether the worker has the whole store verified before it serves.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    descriptors: Mapping[int, int]
    verifies: bool = False

"""
How workers are started and watched.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import Factory, frozen

from pexservice.settings.options import Settings


@frozen(kw_only=True)
class WorkerSetup:
    """
    The part of the options that decides how workers are started and watched.

    @ivar command: the command that starts a worker, without the options that a supervisor
        adds.
    @ivar watchdog: a worker that sends no heartbeat for this many seconds is replaced.
    @ivar standby_count: how many standbys there should be.
    @ivar restart_pending: the options that have changed since the service started and
        whose change requires a restart.
    @ivar settings: the values of the workers' options that were read last.  The workers
        keep the earlier values of the options in C{restart_pending}.
    """

    command: Sequence[str]
    watchdog: float
    standby_count: int
    restart_pending: tuple[str, ...] = ()
    settings: Settings = Factory(Settings)

    @property
    def note(self) -> str:
        """
        Return a sentence on the options that wait for a restart, or an empty string.
        """
        if not self.restart_pending:
            return ""
        return f"changing {' and '.join(self.restart_pending)} requires a restart"

"""
The options' plan for the workers, which may change at a reload.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen


@frozen(kw_only=True)
class Plan:
    """
    The plan by which workers are started and watched.

    @ivar worker: the command that starts a worker, without the options that a supervisor
        adds.
    @ivar watchdog: seconds of silence after which a worker is replaced.
    @ivar standby: how many warm workers wait to take over.
    @ivar restart_pending: the options that have changed since the service started and
        whose change takes effect with a restart.
    @ivar settings: the settings that the plan follows.
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

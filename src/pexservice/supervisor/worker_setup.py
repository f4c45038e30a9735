"""
How workers are started and watched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import Factory, frozen

from pexservice.settings.options import Settings


@frozen(kw_only=True)
class WorkerSetup:
    """
    The options, as far as starting and watching workers depends on them.

    @ivar command: the command that starts a worker, without the options that a supervisor
        adds.
    @ivar watchdog: seconds of silence after which a worker is replaced.
    @ivar standby_count: how many standbys there should be.
    @ivar restart_pending: the options that have changed since the service started and
        whose change requires a restart.
    @ivar settings: the settings that the setup was made from.
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


@frozen(kw_only=True)
class Inherited:
    """
    What each worker gets from its supervisor, in addition to its output and messages.

    @ivar options: options of its command.
    @ivar first_options: further options of the command until a worker has served.
    @ivar environment: its environment.
    @ivar descriptors: its file descriptors: by the worker's number, the supervisor's.
    """

    options: Sequence[str] = ()
    first_options: Sequence[str] = ()
    environment: Mapping[str, str] = {}
    descriptors: Mapping[int, int] = {}

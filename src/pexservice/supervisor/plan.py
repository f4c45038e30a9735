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
    @ivar note: a line on the options that have changed since the service started and that
        only a restart takes, or an empty string.
    """

    worker: Sequence[str]
    watchdog: float
    standby: int
    note: str = ""

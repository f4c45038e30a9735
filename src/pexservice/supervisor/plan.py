"""
What the options say about the workers; they may say something else at a reload.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen


@frozen(kw_only=True)
class Plan:
    """
    How workers are started and watched.

    @ivar worker: the command that starts a worker, without what a supervisor adds.
    @ivar watchdog: seconds of silence after which a worker is replaced.
    @ivar standby: how many warm workers wait to take over.
    @ivar waits_for_restart: the options that say something else than they did when the
        service started, and that only a restart takes.
    """

    worker: Sequence[str]
    watchdog: float
    standby: int
    waits_for_restart: Sequence[str] = ()

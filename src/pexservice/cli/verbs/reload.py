"""
C{pexctl reload}: make a running service read its files again.

The verb sends SIGHUP to the supervisor.  Then it reads the outcome from the scoreboard, the
memory of the supervisor that C{/proc} shows to the service's user and to root.  So the verb
needs neither systemd nor a connection to the service.
"""

from __future__ import annotations

import os
import signal
import time
from argparse import Namespace
from pathlib import Path

from pexservice.cli.output import Result, VerbFailed
from pexservice.cli.verb import CALL_STATUSES, Results, argument, duration, verb
from pexservice.process import scoreboard
from pexservice.process.accepted_losses import LOSSES, accept_losses
from pexservice.process.supervisor_report import Reload, read_report
from pexservice.settings.option import number

_POLL_INTERVAL_SECONDS = 0.05

#: The environment variable in which systemd gives a unit's commands its process id.
_VARIABLE = "MAINPID"

#: The file with twistd's process id, in the directory where twistd was started.
_PID_FILE = "twistd.pid"

#: A parser of process ids.
_process_id = number(1, (1 << 22) - 1)


@verb(
    "reload",
    CALL_STATUSES,
    [
        argument(
            "pid",
            "PID",
            f"the supervisor's process id [default: ${_VARIABLE}, or {_PID_FILE} here]",
            _process_id,
            nargs="?",
        ),
        argument(
            "--accept",
            "OPTION",
            f"allow this reload to lose what OPTION protects: {', '.join(LOSSES)}; may"
            " be repeated",
            str,
            [],
            action="append",
            choices=LOSSES,
        ),
        argument("--timeout", "SECONDS", "how long to wait for the outcome", duration, 80),
    ],
    "pexctl reload",
    "pexctl reload 4711 --accept token-file",
)
def reload(arguments: Namespace) -> Results:
    """
    Make a running service read its files again.

    The service reads the configuration file, certificates and tokens again and replaces its
    workers, without a failed request. If something is wrong, the old workers keep running.
    """
    pid = arguments.pid or _default_process_id()
    _refuse_worker(pid)
    try:
        board = scoreboard.of_process(pid, os.O_RDWR if arguments.accept else os.O_RDONLY)
        before = read_report(board)
        if board is None or before is None:
            raise VerbFailed(f"process {pid} is no pexservice that has started", "none")
        if arguments.accept:
            accept_losses(board, arguments.accept)
        os.kill(pid, signal.SIGHUP)
    except FileNotFoundError:
        raise VerbFailed(f"there is no process {pid}", "none") from None
    except OSError as error:
        # Also root may lack this permission, for example in a container.
        hint = "" if os.geteuid() == 0 else "; reload as the service's user or as root"
        raise VerbFailed(f"process {pid}: {error.strerror}{hint}", "none") from error
    end = time.monotonic() + arguments.timeout
    while time.monotonic() < end:
        time.sleep(_POLL_INTERVAL_SECONDS)
        report = read_report(board)
        # A reload that was in progress before the signal has a lower number.
        if report is not None and report.reloads > before.reloads:
            if report.reload is Reload.FAILED:
                raise VerbFailed(f"reload failed: {report.note}")
            if report.reload is Reload.SUCCEEDED:
                note = f"; {report.note}" if report.note else ""
                yield Result(
                    f"reloaded ({report.reloads} since the service started){note}",
                    {"outcome": "reloaded", "reload": report.reloads, "note": report.note},
                )
                return
        if _has_ended(pid):
            raise VerbFailed(f"process {pid} ended during the reload", "ended")
    raise VerbFailed(f"no outcome after {arguments.timeout:g} seconds", "pending")


def _has_ended(pid: int) -> bool:
    try:
        # The command line is empty until the parent of the ended process reads its status.
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def _refuse_worker(pid: int) -> None:
    from pexservice.process.children import supervisor_of

    if supervisor := supervisor_of(pid):
        raise VerbFailed(
            f"process {pid} is a worker; use the process id of its supervisor: {supervisor}"
        )


def _default_process_id() -> int:
    try:
        text = os.environ.get(_VARIABLE) or Path(_PID_FILE).read_text()
        return _process_id(text.strip())
    except (OSError, ValueError):
        raise VerbFailed(
            f"the process id is missing: there is no ${_VARIABLE} and no {_PID_FILE} here"
        ) from None

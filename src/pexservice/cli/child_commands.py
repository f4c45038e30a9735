"""
The commands by which a supervisor starts its children.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import attrs

from pexservice.settings.option import command_line
from pexservice.settings.options import Settings


def worker_command(settings: Settings) -> list[str]:
    """
    Return the command that starts a worker, without the descriptors that it inherits.

    A worker runs on uvloop where that is installed.
    """
    return [
        *(sys.executable, "-m", "pexservice"),
        *(("--reactor=uvloop",) if find_spec("uvloop") else ()),
        *("--nodaemon", "--pidfile="),
        "pexservice-worker",
        # The worker inherits the sockets instead.
        *command_line(attrs.evolve(settings, listen=())),
    ]


def check_command(settings: Settings) -> list[str]:
    """
    Return the command that checks whether a worker would start.
    """
    # The check does not listen, and has no sockets of its own.
    without_sockets = attrs.evolve(settings, listen=())
    return [sys.executable, "-m", "pexservice.cli.check", *command_line(without_sockets)]


def store_name(settings: Settings) -> str:
    """
    Return the store's name in messages: its directory, or its URL.
    """
    scheme, _, directory = settings.store.partition(":")
    return str(Path(directory).resolve()) if scheme == "lmdb" else settings.store

"""
The writer of the manual pages pexservice(8) and pexctl(1).

The writer takes them from the options themselves, so that pages and options agree.
C{python3 debian/manual.py} writes them to C{debian/}.
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pexservice.cli.help import help_of
from pexservice.cli.pexctl import PARSER
from pexservice.cli.twistd import ServiceOptions

_INTRODUCTION = r"""
.SH NAME
pexservice \- durable cursor over the Fibonacci sequence, over HTTP
.SH SYNOPSIS
.B pexservice
.RI [ options ]
.br
.B pexservice
.I "twistd's options"
.BR pexservice | pexservice\-worker
.RI [ options ]
.br
.B systemctl
.RB { start | stop | reload | restart | status }
.B pexservice
.SH DESCRIPTION
A daemon that steps a cursor through the Fibonacci sequence over HTTP.
A step is on disk before it is answered.
A supervisor holds the socket and keeps a worker and a warm standby alive.
.PP
The package starts it on 127.0.0.1:8081, through
.BR pexservice.socket ,
under the user
.BR pexservice .
.PP
The command
.B pexservice
runs it in the foreground.
With one of the words
.B pexservice
and
.B pexservice\-worker
among its arguments it is Twisted's
.BR twistd3 (1).
.PP
.BI pexservice@ NAME .service
is one more service, with a cursor of its own.
Its options are in
.IR /etc/pexservice/NAME.toml ,
its store in
.IR /var/lib/pexservice@NAME ,
and
.BI pexservice@ NAME .socket
listens on
.IR /run/pexservice/NAME.sock .
.SH OPTIONS
"""

_REST = r"""
.SH SIGNALS
.TP
.B SIGTERM
Answer what is under way, stop the workers, end.
.TP
.B SIGHUP
Replace the workers one by one, with the installed code and the files as they are now, the
configuration file among them, without a failed request.
.B pexctl reload
sends it and says what came of it.
.SH EXIT STATUS
.TP
.B 0
It was told to stop.
.TP
.B 1
It could not start; one line says why.
.TP
.B 64
An option is wrong, or a file that it names, or the store has a format of another version.
Starting again does not help; the store is left alone.
The package's socket closes then.
.TP
.B 74
A worker's store failed; the next worker reads what is on disk.
.TP
.B 78
The store is damaged.
Starting again does not help, and nothing resets, moves or overwrites it.
The package's socket closes then.
.SH FILES
.TP
.I /etc/pexservice/pexservice.toml
Options.
.TP
.I /etc/default/pexservice
More options, in
.BR PEXSERVICE_OPTIONS ;
these win.
.TP
.I /var/log/pexservice
The access log, if there is one.
.TP
.I /var/backups/pexservice
What
.B pexservice\-backup.timer
makes, once it is enabled.
.TP
.I /var/lib/pexservice
The store.
It stays when the package is removed, and goes when it is purged.
.SH EXAMPLES
To listen elsewhere,
.B systemctl edit pexservice.socket
and say
.PP
.nf
.RS
[Socket]
ListenStream=
ListenStream=0.0.0.0:8081
.RE
.fi
.PP
then
.BR "systemctl restart pexservice.socket" .
.SH SEE ALSO
.BR pexctl (1),
.BR twistd3 (1),
.BR systemd.socket (5)
"""


def quoted(text: str) -> str:
    """
    Return C{text} quoted for roff.
    """
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    # For roff, a line that begins with a period is a request.
    return "\n".join(rf"\&{line}" if line[:1] == "." else line for line in text.split("\n"))


def service(version: str) -> Iterator[str]:
    """
    Yield the lines of pexservice(8).
    """
    yield f'.TH PEXSERVICE 8 "" "pexservice {version}"'
    yield _INTRODUCTION.strip()
    for each in sorted(ServiceOptions.declared(), key=lambda option: option.name):
        value = rf" \fI{quoted(each.metavar)}\fR" if each.metavar else ""
        yield from (".TP", rf"\fB\-\-{quoted(each.name)}\fR{value}", quoted(help_of(each)))
    yield _REST.strip()


def ctl(version: str) -> Iterator[str]:
    """
    Yield the lines of pexctl(1).
    """
    yield f'.TH PEXCTL 1 "" "pexservice {version}"'
    yield from (
        ".SH NAME",
        r"pexctl \- move the cursor of a pexservice; look after it and its store",
    )
    yield from (".SH SYNOPSIS", ".B pexctl", ".I COMMAND", ".RI [ options ]")
    (commands,) = (
        each for each in PARSER._actions if isinstance(each, argparse._SubParsersAction)
    )
    yield ".SH COMMANDS"
    for name, command in commands.choices.items():
        yield f".SS {name}"
        yield from (".nf", quoted(command.format_help().strip()), ".fi")
    yield ".SH EXIT STATUS"
    _, _, statuses = (PARSER.epilog or "").partition("exit status:\n")
    yield from (".nf", quoted(statuses.rstrip()), ".fi")
    yield ".SH ENVIRONMENT"
    for name, words in (
        ("PEXSERVICE_URL", "Where the service is, or several URLs with blanks between."),
        ("PEXSERVICE_TOKEN", "The token that may move the cursor."),
    ):
        yield from (".TP", rf"\fB{name}\fR", words)
    yield from (".SH SEE ALSO", ".BR pexservice (8)")


def main() -> None:
    """
    Write both manual pages.
    """
    # The width that argparse writes for.
    os.environ["COLUMNS"] = "80"
    version = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    for name, lines in (("pexservice.8", service(version)), ("pexctl.1", ctl(version))):
        Path("debian", name).write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()

"""
Writes the manual page pexservice(8) from the options themselves, so that the two
cannot drift.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from pexservice.options import ServiceOptions

_INTRODUCTION = r"""
.SH NAME
pexservice \- durable cursor over the Fibonacci sequence, over HTTP
.SH SYNOPSIS
.B twistd
.RI [ "twistd's options" ]
.B pexservice
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
.SH OPTIONS
"""

_REST = r"""
.SH SIGNALS
.TP
.B SIGTERM
Answer what is under way, stop the workers, end.
.TP
.B SIGHUP
Replace the workers one by one, with the installed code and the files as they are now,
without a failed request.
.SH EXIT STATUS
.TP
.B 0
It was told to stop.
.TP
.B 1
It could not start; one line says why.
.TP
.B 74
A worker's store failed; the next worker reads what is on disk.
.TP
.B 78
The store is damaged.
Starting again does not help, and nothing resets, moves or overwrites it.
.SH FILES
.TP
.I /etc/default/pexservice
Options, in
.BR PEXSERVICE_OPTIONS .
.TP
.I /var/lib/pexservice
The store.
It stays when the package is removed, and goes when it is purged.
.SH SEE ALSO
.BR twistd (1),
.BR systemd.socket (5)
"""


def quoted(text: str) -> str:
    """
    For roff.
    """
    return text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")


def main() -> None:
    """
    To standard output.
    """
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    options = ServiceOptions()
    lines = [
        f'.TH PEXSERVICE 8 "" "pexservice {project["version"]}"',
        _INTRODUCTION.strip(),
    ]
    # What usage.Options prints in its --help, option by option.
    for long in sorted(options.longOpt):
        name = long.rstrip("=")
        if name not in options.docs or name == "version":
            continue
        value = r" \fIVALUE\fR" if long.endswith("=") else ""
        default = options.defaults.get(name)
        told = "" if default in (None, 0) else f" Default: {default}."
        text = (options.docs[name] or "").strip()
        if text and not text.endswith("."):
            text += "."
        lines += [".TP", rf"\fB\-\-{quoted(name)}\fR{value}", quoted(text + told)]
    sys.stdout.write("\n".join([*lines, _REST.strip(), ""]))


if __name__ == "__main__":
    main()

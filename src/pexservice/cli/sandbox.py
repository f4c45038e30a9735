"""
The sandbox of a systemd unit: the directories that the service cannot see or write.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from pexservice.settings.options import Settings
from pexservice.stores.registry import store_factory

#: The directory with the configuration files of the Debian package's units.  The unit
#: C{pexservice} reads C{pexservice.toml}, and C{pexservice@NAME} reads C{NAME.toml}.
_CONFIGURATION = Path("/etc/pexservice")

#: Properties of a unit that list the directories which the unit may write.  The names of
#: the directories are relative to these parent directories.
_WRITABLE = {
    "StateDirectory": "/var/lib",
    "LogsDirectory": "/var/log",
    "RuntimeDirectory": "/run",
    "ReadWritePaths": "/",
}

#: Properties of a unit that hide directories from the unit, and these directories.
_HIDDEN = {
    "ProtectHome": ("/home", "/root", "/run/user"),
    "PrivateTmp": ("/tmp", "/var/tmp"),  # noqa: S108 nothing is written there
}


def unit_of(config: str | None) -> str | None:
    """
    Return the unit that reads the configuration file C{config}.

    @return: C{None} if no unit of the Debian package reads this file.
    """
    if config is None or Path(config).absolute().parent != _CONFIGURATION:
        return None
    name = Path(config).stem
    return f"{name}.service" if name == "pexservice" else f"pexservice@{name}.service"


def properties_of(unit: str) -> dict[str, str]:
    """
    Ask systemd for the properties of C{unit}.

    @return: the properties; empty if there is no systemd or no such unit.
    """
    names = ",".join(("LoadState", "ProtectSystem", *_WRITABLE, *_HIDDEN))
    try:
        output = subprocess.run(
            ["systemctl", "show", "--property", names, unit],  # noqa: S607 of the system
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        ).stdout
    except OSError:
        return {}
    properties = dict(line.partition("=")[::2] for line in output.splitlines())
    return properties if properties.get("LoadState") == "loaded" else {}


def problems(settings: Settings, unit: str, properties: Mapping[str, str]) -> Iterator[str]:
    """
    Yield a message for each path in C{settings} that C{unit} cannot use.
    """
    writable = [
        Path(parent, path_text.lstrip("-+"))
        for key, parent in _WRITABLE.items()
        for path_text in properties.get(key, "").split()
    ]
    strict = properties.get("ProtectSystem") == "strict"
    written = ("the access log", "the store")
    store = store_factory(settings.store)
    paths = {
        "the access log": None if settings.access_log == "-" else settings.access_log,
        "the store": None if store.shared else store.offline().directory,
        "the TLS file": settings.tls_certificate,
        "the TLS key": settings.tls_key,
        "the token file": settings.token_file,
    }
    for purpose, path_text in paths.items():
        if path_text is None:
            continue
        path = Path(path_text).resolve()
        if strict and purpose in written and not any(map(path.is_relative_to, writable)):
            yield (
                f"{purpose} {path} is outside the sandbox of {unit}, which may not write"
                f" there: systemctl edit {unit}, [Service], ReadWritePaths={path}"
            )
        for key, directories in _HIDDEN.items():
            if properties.get(key) == "yes" and any(map(path.is_relative_to, directories)):
                yield (
                    f"{purpose} {path_text} is hidden from {unit} by {key}=yes; move it"
                    " elsewhere"
                )

"""
The address of etcd in C{--store etcd:...}.

C{etcd:http://HOST:PORT[,http://HOST:PORT...][?NAME=VALUE[&NAME=VALUE...]]}
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl

from attrs import frozen

from pexservice.stores.errors import StoreMisconfigured

_ENDPOINT = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?")

_PREFIX = re.compile(r"[\x21-\x7e]{1,200}")

#: The parameters of the URL.  Each sets the attribute of L{EtcdAddress} with its name.
_PARAMETERS = ("prefix", "ca", "certificate", "key", "user", "password-file")


@frozen(kw_only=True)
class EtcdAddress:
    """
    The address of etcd, and the credentials of this program there.

    @ivar endpoints: the URLs of members of etcd, such as C{http://127.0.0.1:2379}.
    @ivar prefix: the prefix of all keys of this program.
    @ivar ca: a PEM file with the authorities that signed etcd's certificates; with C{None},
        those of the system are used.
    @ivar certificate: a PEM file with this program's certificate.
    @ivar key: a PEM file with the certificate's private key.
    @ivar password_file: a file whose first line is the password of C{user}.
    """

    endpoints: tuple[str, ...]
    prefix: str = "pexservice/"
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    user: str | None = None
    password_file: str | None = None

    @property
    def secure(self) -> bool:
        """
        Return whether any endpoint speaks TLS.
        """
        return any(endpoint.startswith("https:") for endpoint in self.endpoints)

    def password(self) -> str:
        """
        Read the password of C{user} from the file.

        @raise StoreMisconfigured: the file cannot be read; the message names it.
        """
        file = self.password_file or ""
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", "it must be text in UTF-8")
            raise StoreMisconfigured(f"the password file {file}: {reason}") from error
        return lines[0] if lines else ""

    def __str__(self) -> str:
        return f"etcd at {', '.join(self.endpoints)}"


def parse(url: str) -> EtcdAddress:
    """
    Parse the URL of a store on etcd.

    @raise ValueError: the URL is wrong; the message says why.
    """
    body, _, query = url.removeprefix("etcd:").partition("?")
    if "@" in body:
        # The message does not show the endpoint, which may contain a password.
        raise ValueError("must have no user before @; add ?user=NAME&password-file=FILE")
    endpoints = body.split(",")
    for endpoint in endpoints:
        match = _ENDPOINT.fullmatch(endpoint)
        if match is None or int(match[2] or "1") not in range(1, 65536):
            raise ValueError(
                "must be etcd:http://HOST:PORT[,http://HOST:PORT...], or https,"
                f" and {endpoint or 'nothing'} is no such address"
            )
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("what follows ? must be NAME=VALUE, joined by &") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in _PARAMETERS:
            raise ValueError(f"there is no {name}, only {', '.join(_PARAMETERS)}")
        attribute = name.replace("-", "_")
        if not value or attribute in given:
            raise ValueError(f"{name} must be given once, with a value")
        given[attribute] = value
    _check(given)
    return EtcdAddress(endpoints=tuple(url.rstrip("/") for url in endpoints), **given)


def _check(given: dict[str, str]) -> None:
    """
    Check the prefix, and that parameters are given in pairs.
    """
    if ("certificate" in given) is not ("key" in given):
        raise ValueError("certificate and key go together")
    if ("user" in given) is not ("password_file" in given):
        raise ValueError("user and password-file go together")
    if not _PREFIX.fullmatch(given.get("prefix", "pexservice/")):
        raise ValueError("prefix must have 1 to 200 visible ASCII characters")

"""
Users of etcd, with their certificates and tokens.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import trustme
from attrs import define

from tests.support.commands import run_command
from tests.support.etcd import Member


@define
class TlsFiles:
    """
    The files for TLS with etcd and for its tokens.

    @ivar nodes: certificate and key file by kind of client.
    """

    path: Path
    ca: Path
    nodes: dict[str, tuple[Path, Path]]

    @classmethod
    def make(cls, path: Path) -> Self:
        """
        Write certificates with and without a CN, and one that expires soon, to C{path}.
        """
        authority = trustme.CA()
        authority.cert_pem.write_to_path(path / "ca")
        soon = datetime.now(UTC) + timedelta(days=3, minutes=5)
        nodes = {}
        for name, options in {
            "plain": {},
            "named": {"common_name": "pex"},
            "ending": {"not_after": soon},
        }.items():
            issued = authority.issue_cert("127.0.0.1", "localhost", **options)  # type: ignore[arg-type]
            files = path / f"{name}.pem", path / f"{name}.key"
            files[0].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
            issued.private_key_pem.write_to_path(files[1])
            nodes[name] = files
        return cls(path, path / "ca", nodes)

    def tls_options(self) -> list[str]:
        """
        Return etcd's options for client certificates.
        """
        certificate, key = self.nodes["plain"]
        return [
            *("--cert-file", str(certificate), "--key-file", str(key)),
            *("--trusted-ca-file", str(self.ca), "--client-cert-auth"),
        ]

    def options(self) -> list[str]:
        """
        Return etcd's options for client certificates and for JSON Web Tokens.
        """
        private, public = self.path / "jwt.private", self.path / "jwt.public"
        for arguments in (
            ["genrsa", "-out", str(private), "2048"],
            ["rsa", "-in", str(private), "-pubout", "-out", str(public)],
        ):
            run_command("/usr/bin/openssl", *arguments)
        jwt = f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=10m"
        return [*self.tls_options(), "--auth-token", jwt]

    def store(self, urls: str, node: str, user: str | None = None) -> str:
        """
        Return the store URL of a node with one of the certificates.

        @param urls: the addresses of the members, joined by commas.
        """
        certificate, key = self.nodes[node]
        url = f"etcd:{urls}?ca={self.ca}&certificate={certificate}&key={key}"
        if user is None:
            return url
        (self.path / "password").write_text("secret\n")
        return f"{url}&user={user}&password-file={self.path}/password"

    def context(self) -> ssl.SSLContext:
        """
        Return the TLS context of a client of etcd.
        """
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(*self.nodes["plain"])
        return context


#: The range of the service's keys: from pexservice/ up to pexservice0.
RANGE = {"key": "cGV4c2VydmljZS8=", "range_end": "cGV4c2VydmljZTA="}


def as_root(member: Member, path: str, message: dict[str, Any]) -> None:
    """
    Call etcd as C{root} with a new token, because a change of users invalidates all tokens.
    """
    token = member.ask("/v3/auth/authenticate", {"name": "root", "password": "root"})
    member.ask(f"/v3/auth/{path}", message, Authorization=token["token"])


def enable_users(member: Member) -> None:
    """
    Turn on authentication.  C{pex} gets the rights that the service needs, C{root} all.
    """
    steps: list[tuple[str, dict[str, Any]]] = [
        ("user/add", {"name": "root", "password": "root"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "pex", "password": "secret"}),
        ("role/add", {"name": "pex"}),
        ("role/grant", {"name": "pex", "perm": {"permType": "READWRITE", **RANGE}}),
        ("user/grant", {"user": "pex", "role": "pex"}),
        ("enable", {}),
    ]
    for path, message in steps:
        member.ask(f"/v3/auth/{path}", message)

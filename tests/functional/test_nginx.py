"""
C{deploy/nginx/pexservice.conf} with Debian's nginx.
"""

from __future__ import annotations

import re
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.support.crowd import certified
from tests.support.daemon import TIMEOUT_SECONDS, WORKER, Daemon, exchange_on_unix_socket
from tests.support.nginx import serving

SITE = Path(__file__).parents[2] / "deploy" / "nginx" / "pexservice.conf"


@pytest.mark.needs("nginx")
def test_tls_in_front_of_a_unix_socket(tmp_path: Path) -> None:
    """
    The service logs the client address that nginx reports, not one that the client invents.

    A request without TLS gets a redirect.
    """
    listener = tmp_path / "http.sock"
    proxy = tmp_path / "nginx"
    proxy.mkdir()
    (_, certificate, _, key), trusted = certified(proxy, "pex.example.org", "127.0.0.1")

    def site(port: int) -> str:
        """
        Return the site's configuration with the paths and ports of this test.
        """
        configuration = SITE.read_text()
        for theirs, ours in (
            (r"listen 80;", f"listen unix:{proxy}/plain.sock;"),
            (r"listen 443", f"listen 127.0.0.1:{port}"),
            (r"/run/pexservice/http\.sock", str(listener)),
            (r"/etc/ssl/pexservice/certificate\.pem", certificate),
            (r"/etc/ssl/pexservice/key\.pem", key),
        ):
            configuration, count = re.subn(theirs, ours, configuration)
            assert count
        return configuration

    options = ("--listen", f"unix:{listener}", "--access-log", "access.log")
    with Daemon(tmp_path, *options, command=WORKER), serving(proxy, site) as port:
        for value in ("1", "1", "2"):
            connection = HTTPSConnection(
                "127.0.0.1", port, timeout=TIMEOUT_SECONDS, context=trusted
            )
            connection.request("POST", "/next", headers={"X-Forwarded-For": "192.0.2.1"})
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, f"{value}\n".encode())
            assert response.headers["Pex-Revision"]
            connection.close()
        answer = exchange_on_unix_socket(
            proxy / "plain.sock", b"POST /next HTTP/1.0\r\nHost: pex.example.org\r\n\r\n"
        )
        assert b" 308 " in answer
        assert b"\r\nLocation: https://pex.example.org/next\r\n" in answer
    logged = (tmp_path / "access.log").read_text()
    assert logged.count("127.0.0.1") == 3
    assert "192.0.2.1" not in logged

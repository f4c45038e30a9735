"""
Debian's nginx as a proxy in front of a service.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import TIMEOUT_SECONDS, poll_attempts
from tests.support.needs import program

_CONFIGURATION = """
daemon off;
pid {path}/nginx.pid;
error_log {path}/error.log;
worker_processes 1;
{user}
events {{ worker_connections 1000; }}
http {{
    access_log off;
    client_body_temp_path {path}/body;
    proxy_temp_path {path}/proxy;
    fastcgi_temp_path {path}/fastcgi;
    uwsgi_temp_path {path}/uwsgi;
    scgi_temp_path {path}/scgi;
    {http}
}}
"""

#: A proxy that keeps its connections to the service open, does not repeat requests, and has
#: short timeouts.
_PROXY = """
    client_header_timeout 300ms;
    client_body_timeout 300ms;
    keepalive_timeout 300ms;
    upstream service {{
        server unix:{upstream};
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_next_upstream off;
        }}
    }}
"""


@contextmanager
def nginx(path: Path, upstream: Path) -> Iterator[int]:
    """
    Run nginx as a proxy, and yield its port.

    @param path: a directory for nginx alone.
    @param upstream: a Unix socket that the service listens on.
    """
    with serving(path, lambda port: _PROXY.format(upstream=upstream, port=port)) as port:
        yield port


@contextmanager
def serving(path: Path, http: Callable[[int], str]) -> Iterator[int]:
    """
    Run nginx with a configuration, and yield its port.

    @param path: a directory for nginx alone.
    @param http: return the configuration for a port of 127.0.0.1.
    """
    program_path = program("nginx")
    assert program_path is not None
    # The kernel chooses the port; nginx takes the socket over as if it were from an
    # older nginx.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        configuration = path / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        configuration.write_text(
            _CONFIGURATION.format(path=path, http=http(port), user=user)
        )
        process = subprocess.Popen(
            [program_path, "-e", str(path / "error.log"), "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            env={"NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
        )
    try:
        for _ in poll_attempts():
            if (path / "nginx.pid").exists():
                break
            assert process.poll() is None, (path / "error.log").read_text()
        else:
            raise AssertionError("nginx has not started")
        yield port
    finally:
        process.terminate()
        process.wait(TIMEOUT_SECONDS)

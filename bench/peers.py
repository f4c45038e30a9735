"""
The servers: pexservice, started as a user would, and the servers to compare it with.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from bench.load import Target

OURS, OFF, FLOOR, CEILING = "pexservice", "answer first", "plain Klein", "bare uvloop"

#: How long a server may take until it accepts a connection, in seconds.
PATIENCE = 30


def free_port() -> int:
    """
    Return a port on which no process listens.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], path: Path, port: int, *, one_core: bool = False
) -> Iterator[str]:
    """
    Run C{command} in the directory C{path} until the block ends.

    @return: the URL of the server.
    """
    path.mkdir(parents=True, exist_ok=True)
    pinned = ["taskset", "-c", "0"] if one_core else []
    root = {"PYTHONPATH": f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"}
    with (path / "log").open("ab") as log:
        process = subprocess.Popen(
            [*pinned, *command],
            cwd=path,
            env={**os.environ, **root},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    output = (path / "log").read_text()[-2000:]
                    raise RuntimeError(f"{command[0]} does not respond: {output}") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def twistd(*arguments: str) -> list[str]:
    """
    Return a command line for C{twistd} with this interpreter.
    """
    return [sys.executable, "-m", "pexservice", "-n", "--pidfile=", *arguments]


@contextmanager
def ours(
    path: Path, *options: str, name: str = OURS, one_core: bool = False
) -> Iterator[Target]:
    """
    Run the whole service with its defaults: supervisor, standby and journal.
    """
    port = free_port()
    listen = ("--listen", f"tcp:{port}:interface=127.0.0.1")
    command = twistd("pexservice", *listen, *options)
    with running(command, path, port, one_core=one_core) as url:
        yield Target(name, url, counts=True)


@contextmanager
def far(path: Path, position: int, constant: int | None) -> Iterator[Target]:
    """
    Run one worker whose cursor is at C{position}.

    @param constant: the number of digits of a constant text, or C{None} for the real
        values.
    """
    from tests.support.stores import make_store  # noqa: PLC0415 needs the tests

    port = free_port()
    path.mkdir(parents=True)
    make_store(path / "pexservice-data", position)
    arguments = [
        *("-n", "--pidfile=", "--reactor=uvloop", "pexservice-worker"),
        *("--listen", f"tcp:{port}:interface=127.0.0.1", "--journal", "2000000"),
    ]
    program = [sys.executable, "-m", "pexservice"]
    if constant is not None:
        program = [sys.executable, "-m", "bench.servers.constant", str(constant)]
    with running([*program, *arguments], path, port) as url:
        yield Target("constant" if constant else OURS, url, counts=True)


@contextmanager
def program(name: str, module: str, path: Path) -> Iterator[Target]:
    """
    Run C{module}, one of L{bench.servers}.
    """
    port = free_port()
    with running([sys.executable, "-m", module, str(port)], path, port) as url:
        yield Target(name, url)


@contextmanager
def nginx(path: Path) -> Iterator[Target]:
    """
    Run Debian's nginx with two workers and a constant response.
    """
    port = free_port()
    path.mkdir(parents=True)
    (path / "nginx.conf").write_text(
        f"""worker_processes 2;
        error_log {path}/error.log;
        pid {path}/pid;
        events {{ worker_connections 1024; }}
        http {{
            access_log off;
            keepalive_requests 1000000000;
            client_body_temp_path {path};
            proxy_temp_path {path}; fastcgi_temp_path {path};
            uwsgi_temp_path {path}; scgi_temp_path {path};
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                location / {{ return 200 "0\\n"; }}
            }}
        }}"""
    )
    command = ["nginx", "-c", str(path / "nginx.conf"), "-g", "daemon off;"]
    with running(command, path, port) as url:
        yield Target("nginx", url)


@contextmanager
def granian(path: Path) -> Iterator[Target]:
    """
    Run Granian with one worker and a constant response, through Granian's own interface.
    """
    port = free_port()
    command = [
        *(sys.executable, "-m", "granian", "--interface", "rsgi", "--no-ws"),
        *("--host", "127.0.0.1", "--port", str(port), "bench.servers.constant:rsgi"),
    ]
    with running(command, path, port) as url:
        yield Target("granian", url)


@contextmanager
def uvicorn(path: Path) -> Iterator[Target]:
    """
    Run Uvicorn with one worker and a constant response.
    """
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning"),
        *("--host", "127.0.0.1", "--port", str(port), "bench.servers.constant:asgi"),
    ]
    with running(command, path, port) as url:
        yield Target("uvicorn", url)


@contextmanager
def webdis(path: Path) -> Iterator[Target]:
    """
    Run a durable counter: Redis behind webdis.

    Redis flushes after the commands of each iteration of its event loop.
    """
    port, store = free_port(), free_port()
    path.mkdir(parents=True)
    redis = [
        *("redis-server", "--port", str(store), "--bind", "127.0.0.1", "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "always", "--dir", str(path)),
    ]
    (path / "webdis.json").write_text(
        json.dumps(
            {
                "redis_host": "127.0.0.1",
                "redis_port": store,
                "http_host": "127.0.0.1",
                "http_port": port,
                "threads": 2,
                "pool_size": 20,
                "daemonize": False,
                "websockets": False,
                "verbosity": 0,
                "logfile": str(path / "webdis.log"),
            }
        )
    )
    with (
        running(redis, path / "redis", store),
        running(["webdis", str(path / "webdis.json")], path, port) as url,
    ):
        yield Target("webdis + Redis", url, "/GET/c", "/INCR/c", "/DECR/c")


def off(path: Path) -> AbstractContextManager[Target]:
    """
    Run the whole service with responses before the commit.
    """
    return ours(path, "--synchronous-commit", "off", name=OFF)


def floor(path: Path) -> AbstractContextManager[Target]:
    return program(FLOOR, "bench.servers.floor", path)


def ceiling(path: Path) -> AbstractContextManager[Target]:
    return program(CEILING, "bench.servers.ceiling", path)


#: Each server, and the program that it needs in addition to Python.
SERVERS: Sequence[tuple[str | None, Callable[[Path], AbstractContextManager[Target]]]] = (
    (None, ours),
    (None, off),
    (None, floor),
    (None, ceiling),
    (None, granian),
    (None, uvicorn),
    ("nginx", nginx),
    ("webdis", webdis),
)


@contextmanager
def all_of_them(path: Path, progress: Callable[[str], None]) -> Iterator[list[Target]]:
    """
    Run pexservice and all other servers that are installed.

    A server without requests uses no processor time.
    """
    with ExitStack() as stack:
        targets = []
        for tool, start in SERVERS:
            if tool is None or shutil.which(tool):
                progress(f"starting {start.__name__}")
                targets.append(stack.enter_context(start(path / start.__name__)))
            else:
                progress(f"{tool} is not installed and is left out")
        yield targets

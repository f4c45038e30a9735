"""
Pages of other origins in a browser, and a page whose name turns to the service's address.

Neither can move the cursor, read it, or take a stream.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import chromium
from tests.support.daemon import TIMEOUT_SECONDS, WORKER, Daemon

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = [pytest.mark.needs("chromium", "playwright"), pytest.mark.once]

#: The attacker's name, which turns to this machine.
ATTACKER = "attacker.example"

#: The tries of a page against an address; each returns its result.
TRIES = (Path(__file__).with_name("cross_origin_tries.js")).read_text()


class _Page(BaseHTTPRequestHandler):
    """
    A page of another origin.
    """

    def do_GET(self) -> None:
        """
        Answer an empty page.
        """
        body = b"<!doctype html><title>page</title><body></body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """
        Say nothing.
        """


@pytest.fixture(scope="module")
def other_port() -> Iterator[int]:
    """
    Serve the page on another port of this machine, and provide the port.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(TIMEOUT_SECONDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """
    Provide a browser in which the attacker's names are this machine.
    """
    arguments = (
        f"--host-resolver-rules=MAP {ATTACKER} 127.0.0.1",
        # Chromium would ask its user first, as not every browser does.
        "--disable-features=LocalNetworkAccessChecks",
    )
    with chromium(*arguments) as browser:
        yield browser


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """
    Provide one service for all tests in which nothing moves.
    """
    with Daemon(tmp_path_factory.mktemp("daemon"), command=WORKER) as daemon:
        yield daemon


@contextmanager
def page_at(browser: Browser, address: str) -> Iterator[Page]:
    """
    Open a page in its own context.
    """
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_SECONDS * 1000)
    page = context.new_page()
    page.goto(address)
    yield page
    context.close()


def moved(daemon: Daemon) -> tuple[int, int]:
    """
    Return how often the cursor moved, and how many event streams have ended.
    """
    revision = int(daemon.request("/current")[0].headers["Pex-Revision"])
    metrics = daemon.request("/metrics")[1].decode()
    return revision, len(re.findall(r'endpoint="/events".*status="200"', metrics))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ATTACKER])
def test_page_of_another_origin_moves_nothing_and_reads_nothing(
    daemon: Daemon, browser: Browser, other_port: int, host: str
) -> None:
    """
    It tries this by fetch, form, image, script, frame, beacon, hint and EventSource.
    """
    with page_at(browser, f"http://{host}:{other_port}/") as page:
        outcomes = page.evaluate(TRIES, f"http://127.0.0.1:{daemon.port}")
        assert moved(daemon) == (0, 0), outcomes
        assert outcomes["events"] == "closed"
        for name in ("read", "read history", "fetch GET", "fetch POST", "fetch with a key"):
            assert outcomes[name] == "refused", outcomes
        assert {outcomes["image"], outcomes["script"]} == {"error"}, outcomes


def test_page_of_an_allowed_origin_succeeds(
    tmp_path: Path, browser: Browser, other_port: int
) -> None:
    """
    So the attempts of the other test are real ones.
    """
    origin = f"http://127.0.0.1:{other_port}"
    with (
        Daemon(tmp_path, "--cors-origin", origin, command=WORKER) as daemon,
        page_at(browser, origin) as page,
    ):
        outcomes = page.evaluate(TRIES, f"http://127.0.0.1:{daemon.port}")
        assert outcomes["read"] == "200 0\n"
        assert (outcomes["fetch GET"], outcomes["fetch POST"]) == ("200 1\n", "200 1\n")
        assert outcomes["fetch with a key"] == "200 2\n"
        assert '"revision":' in outcomes["events"]
        assert moved(daemon)[0] >= 3
        # The count above would include a stream.
        assert moved(daemon)[1] == 1


def rebinding(browser: Browser, daemon: Daemon) -> dict[str, str]:
    """
    Load a page of the attacker's, and return the outcome of its tries.

    The name of the page turns to the daemon after the page is loaded.
    """
    address = f"http://{ATTACKER}:{daemon.port}"

    def begin(route: Route) -> None:
        route.fulfill(content_type="text/html", body="<!doctype html><body></body>")

    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_SECONDS * 1000)
    page = context.new_page()
    page.route(f"{address}/page", begin)
    page.goto(f"{address}/page")
    outcomes: dict[str, str] = page.evaluate(TRIES, address)
    context.close()
    return outcomes


def test_page_whose_name_resolves_to_the_service_is_refused(
    daemon: Daemon, browser: Browser
) -> None:
    """
    DNS rebinding: for the browser such a page has the service's own origin.
    """
    outcomes = rebinding(browser, daemon)
    assert moved(daemon) == (0, 0), outcomes
    for name in ("read", "read history", "fetch GET", "fetch POST", "fetch with a key"):
        assert outcomes[name].startswith("421 "), outcomes
    assert outcomes["events"] == "closed"
    assert daemon.log.read_text().count(f"--allowed-host {ATTACKER} ") == 1


def test_page_of_an_allowed_rebound_name_reads_and_moves(
    tmp_path: Path, browser: Browser
) -> None:
    """
    Without the check of the host such a page would read and move.

    So the attack is a real one.
    """
    with Daemon(tmp_path, "--allowed-host", "*", command=WORKER) as daemon:
        outcomes = rebinding(browser, daemon)
        assert outcomes["read"] == "200 0\n"
        # The second and the third step: F(2) and F(3).
        assert (outcomes["fetch POST"], outcomes["fetch with a key"]) == (
            "200 1\n",
            "200 2\n",
        )
        assert '"revision":' in outcomes["events"]


def test_post_only_stops_an_image_whose_request_has_no_origin(
    tmp_path: Path, browser: Browser, other_port: int
) -> None:
    with Daemon(tmp_path, "--post-only", command=WORKER) as daemon:
        base = f"http://127.0.0.1:{daemon.port}"
        assert daemon.request("/next")[0].status == 405
        with page_at(browser, f"http://127.0.0.1:{other_port}/") as page:
            page.evaluate(TRIES, base)
        with page_at(browser, f"{base}/") as page:
            page.click("[data-step=next]")
            page.wait_for_function(
                "() => document.getElementById('position').innerText === '1'"
            )
        assert moved(daemon)[0] == 1

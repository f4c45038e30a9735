"""
Pages of other origins in a browser, and DNS rebinding.

Neither can move the cursor, read it, or open an event stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import chromium
from tests.support.daemon import TIMEOUT_SECONDS, WORKER, Daemon
from tests.support.forms import amount

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.needs("chromium", "playwright"), pytest.mark.once]

#: The attacker's host name, which the browser resolves to this machine.
ATTACKER = "attacker.example"

#: The port of the pages of other origins.  No request reaches it.
OTHER_PORT = 8000

#: What a page tries against an address.  Each attempt returns its outcome.
TRIES = (Path(__file__).with_name("cross_origin_tries.js")).read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """
    Provide a browser for which the attacker's host name is this machine.
    """
    arguments = (
        f"--host-resolver-rules=MAP {ATTACKER} 127.0.0.1",
        # Other browsers do not ask the user before such requests.
        "--disable-features=LocalNetworkAccessChecks",
    )
    with chromium(*arguments) as browser:
        yield browser


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """
    Provide one service for all tests that must not change it.
    """
    with Daemon(tmp_path_factory.mktemp("daemon"), command=WORKER) as daemon:
        yield daemon


@contextmanager
def page_at(browser: Browser, address: str) -> Iterator[Page]:
    """
    Open an empty page in its own browser context.

    The test itself provides the page, and no server.
    """
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_SECONDS * 1000)
    page = context.new_page()
    page.route(
        address,
        lambda route: route.fulfill(
            content_type="text/html", body="<!doctype html><body></body>"
        ),
    )
    page.goto(address)
    yield page
    context.close()


def moved(daemon: Daemon) -> tuple[int, int]:
    """
    Return the revision and the number of event streams that have ended.
    """
    metrics = daemon.request("/metrics")[1].decode()
    return daemon.revision(), len(re.findall(r'endpoint="/events".*status="200"', metrics))


@pytest.mark.parametrize(
    "host",
    amount(short=["127.0.0.1", ATTACKER], long=["127.0.0.1", "localhost", ATTACKER]),
)
def test_page_of_another_origin_moves_nothing_and_reads_nothing(
    daemon: Daemon, browser: Browser, host: str
) -> None:
    """
    The page tries fetch, form, image, script, frame, beacon, resource hint and EventSource.
    """
    with page_at(browser, f"http://{host}:{OTHER_PORT}/") as page:
        outcomes = page.evaluate(TRIES, f"http://127.0.0.1:{daemon.port}")
        assert moved(daemon) == (0, 0), outcomes
        assert outcomes["events"] == "closed"
        for name in ("read", "read history", "fetch GET", "fetch POST", "fetch with a key"):
            assert outcomes[name] == "refused", outcomes
        assert {outcomes["image"], outcomes["script"]} == {"error"}, outcomes


def test_page_of_an_allowed_origin_succeeds(tmp_path: Path, browser: Browser) -> None:
    """
    Without the checks, all attempts in the test above would succeed.
    """
    origin = f"http://127.0.0.1:{OTHER_PORT}"
    with (
        Daemon(tmp_path, "--cors-origin", origin, command=WORKER) as daemon,
        page_at(browser, f"{origin}/") as page,
    ):
        outcomes = page.evaluate(TRIES, f"http://127.0.0.1:{daemon.port}")
        assert outcomes["read"] == "200 0\n"
        assert (outcomes["fetch GET"], outcomes["fetch POST"]) == ("200 1\n", "200 1\n")
        assert outcomes["fetch with a key"] == "200 2\n"
        assert '"revision":' in outcomes["events"]
        assert moved(daemon)[0] >= 3
        # This shows that C{moved} counts streams.
        assert moved(daemon)[1] == 1


def rebinding(browser: Browser, daemon: Daemon) -> dict[str, str]:
    """
    Load a page of the attacker, and return the outcomes of its attempts.

    After the page is loaded, its host name resolves to the service.
    """
    address = f"http://{ATTACKER}:{daemon.port}"
    with page_at(browser, f"{address}/page") as page:
        outcomes: dict[str, str] = page.evaluate(TRIES, address)
    return outcomes


def test_page_whose_name_resolves_to_the_service_is_refused(
    daemon: Daemon, browser: Browser
) -> None:
    """
    The attack is DNS rebinding: to the browser, page and service have the same origin.
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
    Without the check of the Host, the attack in the test above would succeed.
    """
    with Daemon(tmp_path, "--allowed-host", "*", command=WORKER) as daemon:
        outcomes = rebinding(browser, daemon)
        assert outcomes["read"] == "200 0\n"
        # These are the second and the third step, so the values are F(2) and F(3).
        assert outcomes["fetch POST"] == "200 1\n"
        assert outcomes["fetch with a key"] == "200 2\n"
        assert '"revision":' in outcomes["events"]


#: Loads an image, and returns the outcome.
_IMAGE = """(address) => new Promise((done) => {
    const image = new Image();
    image.onload = () => done("loaded");
    image.onerror = () => done("error");
    image.src = address;
})"""


def test_post_only_stops_an_image_whose_request_has_no_origin(
    tmp_path: Path, browser: Browser
) -> None:
    with Daemon(tmp_path, "--post-only", command=WORKER) as daemon:
        base = f"http://127.0.0.1:{daemon.port}"
        assert daemon.request("/next")[0].status == 405
        with page_at(browser, f"http://127.0.0.1:{OTHER_PORT}/") as page:
            assert page.evaluate(_IMAGE, f"{base}/next") == "error"
            page.goto(base)
            page.click("[data-step=next]")
            page.wait_for_function(
                "() => document.getElementById('position').innerText === '1'"
            )
        assert moved(daemon)[0] == 1

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

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = [pytest.mark.needs("chromium", "playwright"), pytest.mark.once]

#: The attacker's host name, which the browser resolves to this machine.
ATTACKER = "attacker.example"

#: The port of the pages of other origins.  No request reaches it.
OTHER_PORT = 8000

#: What a page tries against an address.  Each attempt returns its outcome.
TRIES = (Path(__file__).with_name("cross_origin_tries.js")).read_text()


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    """
    Provide a browser context in which the attacker's host name is this machine.
    """
    arguments = (
        f"--host-resolver-rules=MAP {ATTACKER} 127.0.0.1",
        # Other browsers do not ask the user before such requests.
        "--disable-features=LocalNetworkAccessChecks",
    )
    with chromium(*arguments) as browser:
        yield browser.new_context()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """
    Provide the service that no page may step.
    """
    with Daemon(tmp_path_factory.mktemp("daemon"), command=WORKER) as daemon:
        yield daemon


@contextmanager
def page_at(context: BrowserContext, address: str) -> Iterator[Page]:
    """
    Open an empty page, which the test itself provides, and no server.
    """
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_SECONDS * 1000)
    page.route(
        address,
        lambda route: route.fulfill(
            content_type="text/html", body="<!doctype html><body></body>"
        ),
    )
    page.goto(address)
    yield page
    page.close()


def moved(daemon: Daemon) -> tuple[int, int]:
    """
    Return the revision and the number of event streams that have ended.
    """
    metrics = daemon.request("/metrics")[1].decode()
    return daemon.revision(), len(re.findall(r'endpoint="/events".*status="200"', metrics))


@pytest.mark.parametrize("host", ["127.0.0.1", ATTACKER])
def test_page_of_another_origin_moves_nothing_and_reads_nothing(
    daemon: Daemon, context: BrowserContext, host: str
) -> None:
    """
    The page tries fetch, form, image, script, frame, beacon, resource hint and EventSource.
    """
    with page_at(context, f"http://{host}:{OTHER_PORT}/") as page:
        outcomes = page.evaluate(TRIES, f"http://127.0.0.1:{daemon.port}")
        assert moved(daemon) == (0, 0), outcomes
        assert outcomes["events"] == "closed"
        for name in ("read", "read history", "fetch GET", "fetch POST", "fetch with a key"):
            assert outcomes[name] == "refused", outcomes
        assert {outcomes["image"], outcomes["script"]} == {"error"}, outcomes


def rebinding(context: BrowserContext, daemon: Daemon) -> dict[str, str]:
    """
    Load a page of the attacker, and return the outcomes of its attempts.

    After the page is loaded, its host name resolves to the service.
    """
    address = f"http://{ATTACKER}:{daemon.port}"
    with page_at(context, f"{address}/page") as page:
        outcomes: dict[str, str] = page.evaluate(TRIES, address)
    return outcomes


def test_page_whose_name_resolves_to_the_service_is_refused(
    daemon: Daemon, context: BrowserContext
) -> None:
    """
    The attack is DNS rebinding: to the browser, page and service have the same origin.
    """
    outcomes = rebinding(context, daemon)
    assert moved(daemon) == (0, 0), outcomes
    for name in ("read", "read history", "fetch GET", "fetch POST", "fetch with a key"):
        assert outcomes[name].startswith("421 "), outcomes
    assert outcomes["events"] == "closed"
    assert daemon.log.read_text().count(f"--allowed-host {ATTACKER} ") == 1


def test_pages_of_an_allowed_origin_and_an_allowed_name_succeed(
    tmp_path: Path, context: BrowserContext
) -> None:
    """
    Without the checks, all attempts in the tests above would succeed.
    """
    origin = f"http://127.0.0.1:{OTHER_PORT}"
    options = ("--cors-origin", origin, "--allowed-host", "*")
    with Daemon(tmp_path, *options, command=WORKER) as daemon:
        with page_at(context, f"{origin}/") as page:
            outcomes = page.evaluate(TRIES, f"http://127.0.0.1:{daemon.port}")
        assert outcomes["read"] == "200 0\n"
        assert (outcomes["fetch GET"], outcomes["fetch POST"]) == ("200 1\n", "200 1\n")
        assert outcomes["fetch with a key"] == "200 2\n"
        assert '"revision":' in outcomes["events"]
        assert moved(daemon)[0] >= 3
        # This shows that C{moved} counts streams.
        assert moved(daemon)[1] == 1
        daemon.step("reset")
        outcomes = rebinding(context, daemon)
        assert outcomes["read"] == "200 0\n"
        # These are the second and the third step, so the values are F(2) and F(3).
        assert outcomes["fetch POST"] == "200 1\n"
        assert outcomes["fetch with a key"] == "200 2\n"
        assert '"revision":' in outcomes["events"]

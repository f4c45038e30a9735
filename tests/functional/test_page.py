"""
The live page in a browser.
"""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.functional.test_wire import worker
from tests.labs.failover.lab import until
from tests.support.browser import View, chromium, open_view
from tests.support.daemon import WORKER, Daemon, poll_attempts, wait_until_gone
from tests.support.forms import amount
from tests.support.ports import held_ports
from tests.support.stores import make_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

#: F(100,000) has 20,899 digits.
FAR = 100_000

pytestmark = [pytest.mark.needs("chromium", "playwright"), pytest.mark.once]

Open = Callable[..., View]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """
    Provide one browser for all tests; each page has its own browser context.
    """
    with chromium() as browser:
        yield browser


@pytest.fixture
def views(browser: Browser) -> Iterator[Open]:
    """
    Provide a function that opens a page.  Afterwards no page may have reported an error.
    """
    opened: list[View] = []

    def opening(daemon: Daemon, **options: Any) -> View:
        opened.append(open_view(browser, daemon, **options))
        return opened[-1]

    yield opening
    for view in opened:
        view.page.context.close()
    assert [view.own_errors for view in opened] == [[]] * len(opened)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """
    Provide a service with a standby.
    """
    with Daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def daemon_without_standby(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, "--standby", "0") as daemon:
        yield daemon


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Daemon]:
    """
    Provide a worker without a supervisor.
    """
    with Daemon(tmp_path, command=WORKER) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def far_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """
    Provide a worker whose values have more than 20,000 digits.
    """
    path = tmp_path_factory.mktemp("far")
    make_store(path / "pexservice-data", FAR)
    with Daemon(path, command=WORKER) as daemon:
        yield daemon


@pytest.fixture
def held_port() -> Iterator[int]:
    """
    Provide a port for a service that stops and starts again.
    """
    with held_ports(1) as (port,):
        yield port


def step(daemon: Daemon, name: str = "next", times: int = 1) -> None:
    """
    Move the cursor as another client.
    """
    for _ in range(times):
        assert daemon.request(f"/{name}", "POST")[0].status == 200


def test_each_button_makes_its_step_and_shows_value_and_history(
    single: Daemon, views: Open
) -> None:
    view = views(single)
    view.until("value", "0")
    for name, position, value in (
        *(("next", n, value) for n, value in enumerate((1, 1, 2, 3, 5, 8, 13), 1)),
        ("previous", 6, 8),
        ("reset", 0, 0),
        ("previous", 0, 0),
    ):
        view.press(name)
        view.until("position", str(position))
        view.until("value", str(value))
    view.until("revision", "10")
    assert single.request("/current")[0].headers["Pex-Revision"] == "10"
    view.page.wait_for_selector("#history tr:nth-child(10)")
    view.page.wait_for_function(
        "() => document.querySelector('#history td').textContent === '10'"
    )
    row = view["history"].locator("tr").first.inner_text().split()
    assert row[:3] == ["10", "previous", "0"]
    view.until("announcement", "Position 0: 0")
    assert view("message") == ""
    assert view.errors == []


def test_every_click_makes_one_step(single: Daemon, views: Open) -> None:
    view = views(single)
    for _ in range(30):
        view.press("next")
    view.until("position", "30")
    assert single.request("/current")[0].headers["Pex-Revision"] == "30"


def test_steps_of_other_clients_are_shown_and_not_announced(
    single: Daemon, views: Open
) -> None:
    """
    A screen reader does not read these steps out.
    """
    first_view, other = views(single), views(single)
    first_view.until_connection()
    step(single, times=12)
    first_view.until("value", "144")
    assert (first_view("before"), first_view("after")) == ("89", "233")
    other.press("next")
    first_view.until("value", "233")
    assert first_view("announcement") == ""
    # The chart shows the steps too.
    first_view.until("position-range", "0 to 13")
    assert first_view.page.get_attribute("#positions .line", "d")
    assert first_view.errors == other.errors == []


def test_the_page_continues_with_the_next_worker_after_a_kill(
    daemon_without_standby: Daemon, views: Open
) -> None:
    view = views(daemon_without_standby)
    view.until_connection()
    view.page.evaluate("window.untouched = true")
    for kill in range(1, 3):
        killed = worker(daemon_without_standby)
        os.kill(killed, signal.SIGKILL)
        wait_until_gone(killed)
        step(daemon_without_standby)
        view.until("position", str(2 * kill - 1))
        view.press("next")
        view.until("position", str(2 * kill))
        view.until_connection()
    assert view.page.evaluate("window.untouched")
    assert daemon_without_standby.request("/current")[0].headers["Pex-Revision"] == "4"


def test_the_page_follows_to_the_new_worker_of_a_reload(
    daemon_without_standby: Daemon, views: Open
) -> None:
    """
    SIGHUP ends the page's event stream, and the page opens one at the new worker.
    """
    view = views(daemon_without_standby)
    view.until_connection()
    daemon_without_standby.process.send_signal(signal.SIGHUP)
    until(daemon_without_standby, "serves", 2)
    step(daemon_without_standby)
    view.until("position", "1")
    view.until_connection()


def test_a_step_pressed_while_the_service_is_down_is_made_once_it_is_back(
    tmp_path: Path, held_port: int, views: Open
) -> None:
    """
    The page shows that the service is down, keeps the step, and makes it once.
    """
    listen = ("--listen", f"tcp:{held_port}:interface=127.0.0.1")
    with Daemon(tmp_path, *listen, command=WORKER) as daemon:
        view = views(daemon)
        view.until_connection()
        step(daemon, times=3)
        view.until("position", "3")
    view.until_connection("lost")
    assert view("connection-words") == "Reconnecting"
    view.press("next")
    view.page.wait_for_function(
        "() => document.getElementById('message').innerText.includes('is repeated')"
    )
    assert view("position") == "3"
    with Daemon(tmp_path, *listen, command=WORKER) as daemon:
        view.until_connection()
        view.until("position", "4")
        view.until("message", "")
        assert daemon.request("/current")[0].headers["Pex-Revision"] == "4"


def test_a_step_without_a_response_is_repeated_with_its_key(
    single: Daemon, views: Open
) -> None:
    """
    The page repeats a step if its response was lost or says that the outcome is unknown.

    The step is made once.
    """
    view = views(single)
    view.until_connection()
    keys: list[str] = []

    def lose(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fetch()
            route.abort()
        elif len(keys) == 2:
            route.fulfill(
                status=503,
                headers={"Retry-After": "0"},
                content_type="application/problem+json",
                body='{"detail": "it may have been taken"}',
            )
        else:
            route.continue_()

    view.page.route("**/next", lose)
    view.press("next")
    view.page.wait_for_function(
        "() => document.getElementById('message').innerText.includes('may have been taken')"
    )
    view.until("message", "")
    view.press("next")
    view.until("position", "2")
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 2
    assert single.request("/current")[0].headers["Pex-Revision"] == "2"


def test_the_page_waits_as_long_as_retry_after_says(
    far_daemon: Daemon, views: Open
) -> None:
    """
    The header contains seconds or a date.  The page waits a minute at most.

    If the header contains neither, the page waits for its own retry delay.
    """
    view = views(far_daemon)
    for value, least, most in (
        ("3", 3000, 3000),
        ("0", 0, 0),
        ("999999999", 60_000, 60_000),
        (formatdate(4e9, usegmt=True), 60_000, 60_000),
        (formatdate(1e9, usegmt=True), -math.inf, 0),
        ("soon", 0, 0),
        ("", 0, 0),
        ("-1", -math.inf, 0),
    ):
        waits = view.page.evaluate(
            "value => retryAfter(new Response('', { headers: { 'Retry-After': value } }))",
            value,
        )
        assert least <= waits <= most, value


def test_after_a_minute_the_page_asks_before_it_repeats_a_step(
    single: Daemon, views: Open
) -> None:
    """
    The page shows that the outcome is unknown.

    If the user agrees, the page repeats the step with the same key, and then makes the
    waiting steps.
    """
    view = views(single)
    view.until_connection()
    keys: list[str] = []

    def lose(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        route.abort()

    view.page.clock.install()
    view.page.route("**/next", lose)
    view.press("next")
    view.press("next")
    view.page.wait_for_function(
        "() => document.getElementById('message').innerText.includes('is repeated')"
    )
    view.page.clock.fast_forward(70_000)
    view["again"].wait_for()
    assert "It is unknown whether the step was made" in view("message")
    assert len(set(keys)) == 1
    view.page.unroute("**/next")
    with view.page.expect_request("**/next") as request:
        view["again"].click()
    assert request.value.headers["idempotency-key"] == keys[0]
    view.until("position", "2")
    view.until("message", "")
    assert not view["again"].is_visible()


def test_the_trace_has_a_gap_after_a_kill_and_continues(
    daemon_without_standby: Daemon, views: Open
) -> None:
    """
    It continues although the cursor has not moved.
    """
    view = views(daemon_without_standby)
    view.until_connection()
    step(daemon_without_standby)
    view.until("position", "1")
    os.kill(worker(daemon_without_standby), signal.SIGKILL)
    view.page.wait_for_function(
        "() => document.querySelector('#positions .line').getAttribute('d')"
        ".split('M').length >= 3"
    )


def test_a_refused_step_shows_the_reason_and_the_next_step_follows(
    single: Daemon, views: Open
) -> None:
    """
    The page shows the C{detail} of the problem.
    """
    view = views(single)
    view.until_connection()
    view.page.route(
        "**/reset",
        lambda route: route.fulfill(
            status=422,
            content_type="application/problem+json",
            body='{"detail": "make a new key"}',
        ),
    )
    view.press("reset")
    view.until("message", "The step was refused: make a new key")
    view.press("next")
    view.until("position", "1")


def test_a_long_value_is_shown_by_its_ends_and_copied_whole(
    far_daemon: Daemon, views: Open
) -> None:
    """
    The page shows the number of digits.  It shows more digits on demand, but not all.
    """
    view = views(far_daemon, permissions=["clipboard-read", "clipboard-write"])
    view.until("digits", "20,899")
    text = far_daemon.request("/current")[1].decode().strip()
    first, last = view("value").replace(" ", "").split("…")
    assert text.startswith(first)
    assert text.endswith(last)
    assert len(first) == len(last) == 24
    view["expand"].click()
    view.page.wait_for_function(
        "() => document.getElementById('all').innerText.length > 9000"
    )
    laid_out = view("all")
    assert laid_out.startswith(text[:5000])
    assert laid_out.endswith(text[-5000:])
    assert "10,899 digits are not shown here" in laid_out
    assert view["expand"].get_attribute("aria-expanded") == "true"
    copy(view, "F(100,000) is copied.")
    copied = view.page.evaluate("navigator.clipboard.readText()")
    # A failing comparison of the texts would print them.
    assert (len(copied), hash(copied)) == (len(text), hash(text))
    assert view.page.evaluate("document.body.innerText.length") < 15_000
    view.press("next")
    view.until("position", "100,001")
    view["expand"].click()
    assert not view["all"].is_visible()
    assert view.errors == []


def test_copying_works_in_a_browser_without_navigator_clipboard(
    single: Daemon, views: Open
) -> None:
    """
    Browsers have no C{navigator.clipboard} on a page from another machine without TLS.
    """
    view = views(single, permissions=["clipboard-read"])
    step(single, times=150)
    view.until("digits", "31")
    view.page.evaluate("""() => {
        const kept = navigator.clipboard;
        window.pasted = () => kept.readText();
        Object.defineProperty(navigator, "clipboard", { value: undefined });
    }""")
    copy(view, "F(150) is copied.")
    assert view.page.evaluate("window.pasted()") == view("value")


def copy(view: View, message: str) -> None:
    """
    Click the copy button until the page shows C{message}.

    The browser allows a copy only for some seconds after a click, and the page shows the
    message only for some seconds.  On a busy machine, the test may pause for longer.
    """
    view.page.evaluate("""() => {
        window.messages = [];
        const copied = document.getElementById("copied");
        new MutationObserver(() => window.messages.push(copied.innerText)).observe(
            copied, { childList: true, characterData: true, subtree: true });
    }""")
    for _ in poll_attempts():
        view["copy"].click()
        view.page.wait_for_function("() => window.messages.some((message) => message)")
        if message in view.page.evaluate("() => window.messages.splice(0)"):
            return
    raise AssertionError(f"{message!r} was not shown")


def violations(view: View) -> list[str]:
    """
    Return the violations that axe finds.
    """
    from axe_playwright_python import sync_playwright  # type: ignore[import-untyped]

    results = sync_playwright.Axe().run(view.page)
    return [
        f"{violation['id']}: {node['html']}"
        for violation in results.response["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_any_state(
    scheme: str, daemon_without_standby: Daemon, far_daemon: Daemon, views: Open
) -> None:
    view = views(daemon_without_standby, color_scheme=scheme)
    view.until("value", "0")
    assert violations(view) == []
    step(daemon_without_standby, times=20)
    view.until("position", "20")
    view.page.wait_for_selector("#history tr:nth-child(10)")
    view.page.route("**/next", lambda route: route.abort())
    view.press("next")
    view.page.wait_for_function("() => document.getElementById('message').innerText")
    view.page.evaluate("document.getElementById('access').hidden = false")
    view.page.evaluate("document.getElementById('again').hidden = false")
    assert violations(view) == []
    far = views(far_daemon, color_scheme=scheme)
    far["expand"].click()
    far.page.wait_for_function(
        "() => document.getElementById('all').innerText.length > 9000"
    )
    assert violations(far) == []


def test_every_control_works_with_the_keyboard(single: Daemon, views: Open) -> None:
    """
    Tab reaches the controls in their visible order, and shows a focus ring.

    Enter and Space press them.
    """
    view = views(single)
    view.until_connection()
    seen = []
    keyboard = view.page.keyboard
    for press in ("Enter", "Space", *[None] * 8):
        keyboard.press("Tab")
        seen.append(view.page.evaluate("document.activeElement.innerText.trim()"))
        style = "getComputedStyle(document.activeElement).outlineStyle"
        assert view.page.evaluate(style) == "solid"
        if press:
            keyboard.press(press)
            view.until("revision", str(len(seen)))
    assert seen == [
        *("← Previous", "Next →", "Reset R", "Run 20 steps", "What this is"),
        *("/current", "/history", "/readyz", "/metrics", "/openapi.json"),
    ]
    view.until("position", "1")


def test_arrow_keys_make_steps_and_r_asks_before_a_reset(
    single: Daemon, views: Open
) -> None:
    """
    The keys do nothing in a text field, and nothing together with Ctrl.
    """
    view = views(single)
    view.until_connection()
    keyboard = view.page.keyboard
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        keyboard.press(key)
    view.until("revision", "4")
    view.until("position", "2")
    keyboard.press("Control+ArrowRight")
    keyboard.press("r")
    assert view["sure"].is_visible()
    assert view("keep") == "Stay at F(2)"
    keyboard.press("ArrowRight")
    keyboard.press("Enter")
    assert not view["sure"].is_visible()
    keyboard.press("R")
    keyboard.press("Escape")
    assert not view["sure"].is_visible()
    keyboard.press("r")
    view.page.click("#sure [data-step=reset]")
    view.until("position", "0")
    view.until("revision", "5")
    view.page.evaluate("document.getElementById('access').hidden = false")
    view["token"].focus()
    keyboard.press("ArrowRight")
    keyboard.press("r")
    assert view["token"].input_value() == "r"
    assert not view["sure"].is_visible()
    assert single.request("/current")[0].headers["Pex-Revision"] == "5"


@pytest.mark.parametrize("width", amount(short=[390], long=[390, 1400]))
def test_the_buttons_stay_in_place_for_values_of_any_length(
    width: int, single: Daemon, far_daemon: Daemon, views: Open
) -> None:
    """
    So a second click hits the same button.
    """
    places = []
    for tested_daemon, steps in ((single, 0), (single, 60), (single, 500), (far_daemon, 0)):
        step(tested_daemon, times=steps)
        view = views(tested_daemon, viewport={"width": width, "height": 800})
        position = int(tested_daemon.request("/current")[0].headers["Pex-Position"])
        view.until("position", f"{position:,}")
        places.append(view.page.locator("[data-step=next]").bounding_box())
    assert places == places[:1] * 4


def test_a_kill_is_reported_with_both_workers_and_the_pause(
    daemon: Daemon, views: Open
) -> None:
    """
    The page names the worker that ended and the one that took over, as in the log.

    It shows the pause, and says that no step is lost.  The chart has a mark.
    """
    view = views(daemon)
    view.until("worker", "worker-1")
    view.until("standing-by", "1 of 1")
    assert view("takeovers") == "0"
    assert view.page.get_attribute("#positions .marks", "d") is None
    step(daemon, times=3)
    view.until("position", "3")
    os.kill(worker(daemon), signal.SIGKILL)
    view.until("worker", "worker-2")
    view.page.wait_for_function(
        "() => /^worker-1 ended, worker-2 took over( after [0-9a-z, ]+ ms)?, nothing lost$/"
        ".test(document.getElementById('takeover').innerText)"
    )
    assert view("takeovers") == "1"
    view.page.wait_for_function(
        "() => document.querySelector('#positions .marks').getAttribute('d')"
    )
    assert re.fullmatch(r"worker-2 at \d\d:\d\d:\d\d", view("mark-names"))
    view.until("standing-by", "1 of 1")
    assert "worker-2 serves" in daemon.log.read_text()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desktop", "phone"])
def test_takeovers_are_shown_for_ten_seconds_without_scrolling(
    size: tuple[int, int], daemon: Daemon, views: Open
) -> None:
    """
    The message is next to the cursor, and no other element moves.

    A second takeover within ten seconds gets its own line below the first.
    """
    width, height = size
    view = views(daemon, viewport={"width": width, "height": height})
    button = view.page.locator("[data-step=next]")
    view.until("standing-by", "1 of 1")
    view.stop_clock()
    place = button.bounding_box()
    for kills, successor in ((1, "worker-2"), (2, "worker-1")):
        os.kill(worker(daemon), signal.SIGKILL)
        view.until("worker", successor)
        line = view["news"].locator("span").nth(kills - 1)
        line.filter(has_text="nothing lost").wait_for()
        assert line.inner_text().startswith(f"{successor} took over")
        view.until("standing-by", "1 of 1")
    # Let the page draw the chart.
    view.page.clock.run_for(200)
    assert view.page.evaluate("scrollY") == 0
    first, second = (view["news"].locator("span").nth(n).bounding_box() for n in (0, 1))
    assert first is not None
    assert second is not None
    assert first["y"] + first["height"] <= second["y"]
    for box in (first, second):
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
        assert 0 <= box["y"] <= box["y"] + box["height"] <= height
    assert button.bounding_box() == place
    for text in ("was started again after 10,000 ms", "took over after less than 1 ms"):
        view.page.evaluate("text => void flash(text)", f"worker-2 {text}; nothing lost")
    assert button.bounding_box() == place
    # The names of the takeovers are normal text, so they cannot overlap.
    assert len(re.findall(r"worker-\d at ", view("mark-names"))) == 2
    view.page.clock.fast_forward(10_000)
    view.until("news", "")
    assert "took over" in view("takeover")


def test_the_processes_are_shown_and_follow_a_takeover(daemon: Daemon, views: Open) -> None:
    view = views(daemon)
    active = worker(daemon)
    view["processes"].filter(has_text="standby").wait_for()
    shown = dict(re.findall(r"(\d+) \((\w+)\)", view("processes")))
    assert shown[str(active)] == "active"
    assert set(shown.values()) == {"running", "active", "standby"}
    (standby,) = (pid for pid, state in shown.items() if state == "standby")
    os.kill(active, signal.SIGKILL)
    after = view["processes"].filter(has_text=f"{standby} (active)")
    after.filter(has_not_text=f" {active} (").wait_for()


def test_the_processes_are_not_shown_where_the_host_is_not_checked(
    tmp_path: Path, views: Open
) -> None:
    with Daemon(tmp_path, "--allowed-host", "*") as daemon:
        view = views(daemon)
        view.until("standing-by", "1 of 1")
        assert not view["processes"].is_visible()


def test_nothing_says_that_a_worker_is_active_while_the_service_is_down(
    tmp_path: Path, held_port: int, views: Open
) -> None:
    listen = ("--listen", f"tcp:{held_port}:interface=127.0.0.1")
    with Daemon(tmp_path, *listen) as daemon:
        view = views(daemon)
        view.until("worker", "worker-1")
        view.until("standing-by", "1 of 1")
    view.until_connection("lost")
    for name in ("worker", "since", "standing-by", "takeovers"):
        assert view(name) == "not known"
    assert view("takeover") == "The connection to the service is lost …"
    words = view.page.locator("body").inner_text()
    assert not re.search(r"worker-\d|\bLive\b|\bserv(es|ing)\b", words)
    with Daemon(tmp_path, *listen, "--standby", "0"):
        view.until("worker", "worker-1")
        view.until_connection()
        # The page does not know how long the service was down.
        view.until("takeover", "The service was started again, nothing lost")


#: Records each state of the connection and each text of C{#takeover}.
_WATCH = """() => {
    window.states = [];
    window.reports = [];
    const watch = (id, list, read) => new MutationObserver(() => list.push(read())).observe(
        document.getElementById(id), { attributes: true, childList: true });
    watch("connection", states, () => document.getElementById("connection").dataset.state);
    watch("takeover", reports, () => document.getElementById("takeover").innerText);
}"""


def test_silence_opens_a_new_stream_and_a_heartbeat_is_no_silence(
    daemon_without_standby: Daemon, views: Open
) -> None:
    """
    After 40 seconds without an event, the page tries to open a stream until it succeeds.
    """
    view = views(daemon_without_standby)
    view.until_connection()
    view.until("value", "0")
    streams: list[Route] = []
    view.page.route("**/events?workers", lambda route: streams.append(route))  # noqa: PLW0108 Playwright sets attributes on it
    view.stop_clock()
    view.page.evaluate(_WATCH)
    # The running timer uses the clock that was replaced, so the loop starts new timers.
    # Each jump is 1 ms longer than a timeout, because the page's clock has fractions of it.
    beat = "source.dispatchEvent(new MessageEvent('heartbeat', { data: '{}' }))"
    for _ in range(3):
        view.page.evaluate(beat)
        view.page.clock.fast_forward(35_000)
    assert view.page.evaluate("states") == []
    view.page.evaluate(beat)
    with view.page.expect_request("**/events?workers"):
        view.page.clock.fast_forward(40_001)
    view.until_connection("lost")
    assert view("connection-words") == "Reconnecting"
    assert view("worker") == "not known"
    with view.page.expect_request("**/events?workers"):
        view.page.clock.fast_forward(10_001)
    view.until_connection("lost")
    # A request waits up to 20 seconds in Chromium for an earlier one with the same URL.
    for stream in streams:
        stream.abort()
    view.page.unroute("**/events?workers")
    with view.page.expect_request("**/events?workers"):
        view.page.clock.fast_forward(10_001)
    view.until_connection()
    view.until("worker", "worker-1")
    assert len(streams) == 2


def test_the_page_notices_that_the_network_goes_and_comes(
    daemon_without_standby: Daemon, views: Open
) -> None:
    """
    The event C{offline} ends the stream, and C{online} opens a new one.

    The page then says that the worker is the same, and reports no takeover.
    """
    view = views(daemon_without_standby)
    view.until_connection()
    view.until("worker", "worker-1")
    view.page.evaluate(_WATCH)
    view.page.context.set_offline(True)
    view.until_connection("lost")
    assert view("worker") == "not known"
    step(daemon_without_standby)
    view.page.context.set_offline(False)
    view.until_connection()
    view.until("position", "1")
    view.until("worker", "worker-1")
    view.until("takeover", "The connection was lost and is back, to the same worker")
    assert view("news") == ""


def test_a_second_break_takes_back_that_the_worker_is_the_same(
    daemon: Daemon, views: Open
) -> None:
    """
    A worker accepts streams a moment before the supervisor records its takeover.

    So the page waits before it says that the worker is the same.
    """
    view = views(daemon)
    view.until_connection()
    view.until("standing-by", "1 of 1")
    view.page.evaluate(_WATCH)
    # The kill must come before the page reports that the worker is the same.
    view.stop_clock()
    view.page.evaluate("reconnect()")
    view.until_connection()
    os.kill(worker(daemon), signal.SIGKILL)
    view.until("worker", "worker-2")
    view.page.wait_for_function(
        "() => document.getElementById('takeover').innerText.endsWith('nothing lost')"
    )
    view.page.clock.run_for(2500)
    assert not [text for text in view.page.evaluate("reports") if "same worker" in text]


def test_page_reports_lost_steps(daemon: Daemon, views: Open) -> None:
    """
    Without synchronous commit, a service may lose answered steps.
    """
    view = views(daemon)
    view.until("worker", "worker-1")
    step(daemon, times=3)
    view.until("revision", "3")
    view.page.route(
        "**/current",
        lambda route: route.fulfill(status=200, headers={"Pex-Revision": "1"}),
    )
    os.kill(worker(daemon), signal.SIGKILL)
    view.page.wait_for_function(
        "() => document.getElementById('takeover').innerText.endsWith(', 2 steps lost')"
    )


def test_the_small_load_makes_each_step_once_despite_a_kill(
    daemon_without_standby: Daemon, views: Open
) -> None:
    """
    The page shows the sizes of the batches in which the steps were committed.
    """
    view = views(daemon_without_standby)
    view.until_connection()
    view["load"].click()
    view.until("position", "20")
    view.page.wait_for_selector("#batches span")
    text = view("load-result")
    assert text.startswith("20 steps were answered in ")
    sizes = [int(size) for size in text.rpartition(" of ")[2].strip(".").split(", ")]
    assert sum(sizes) == 20
    assert view["batches"].locator("span").count() == len(sizes)
    view["load"].click()
    os.kill(worker(daemon_without_standby), signal.SIGKILL)
    view.until("position", "40")
    view.page.wait_for_selector("#load:enabled")
    assert daemon_without_standby.request("/current")[0].headers["Pex-Revision"] == "40"


def test_without_a_supervisor_the_page_claims_no_standby(
    tmp_path: Path, views: Open
) -> None:
    with Daemon(tmp_path, command=WORKER) as daemon:
        view = views(daemon)
        view.until("worker", "one worker")
        assert view("standing-by") == view("takeovers") == "not known"


@pytest.mark.parametrize("width", amount(short=[320], long=[320, 375, 768]))
def test_no_element_is_wider_than_a_narrow_screen(
    width: int, single: Daemon, far_daemon: Daemon, views: Open
) -> None:
    step(single, times=300)
    for tested_daemon, digits in ((single, "63"), (far_daemon, "20,899")):
        view = views(tested_daemon, viewport={"width": width, "height": 700})
        view.page.wait_for_function("() => document.getElementById('digits').innerText")
        assert digits[:2] in view("digits")
        if view["expand"].is_visible():
            view["expand"].click()
        view.page.wait_for_selector("#history tr:nth-child(10)")
        assert view.page.evaluate("document.documentElement.scrollWidth") == width


def test_a_step_waits_until_the_token_is_entered(tmp_path: Path, views: Open) -> None:
    """
    The page does not store the token.
    """
    tokens = tmp_path / "tokens"
    tokens.write_text("opensesame\n")
    tokens.chmod(0o600)
    with Daemon(tmp_path, "--token-file", str(tokens), command=WORKER) as daemon:
        view = views(daemon)
        view.until_connection()
        assert not view["access"].is_visible()
        view.press("next")
        view.until("message", "The step waits: moving the cursor requires a token.")
        for token, outcome in (("wrong", "wait"), ("opensesame", "move")):
            view["token"].fill(token)
            view.page.keyboard.press("Enter")
            if outcome == "wait":
                view.until("message", "The step waits: this token may not move the cursor.")
        view.until("position", "1")
        assert not view["access"].is_visible()
        view.press("next")
        view.until("position", "2")
        kept = "localStorage.length + sessionStorage.length + document.cookie.length"
        assert view.page.evaluate(kept) == 0
        assert view["token"].input_value() == ""


def test_the_content_security_policy_blocks_other_scripts_and_hosts(
    far_daemon: Daemon, browser: Browser
) -> None:
    view = open_view(browser, far_daemon)
    view.until_connection()
    view.page.evaluate("""() => {
        const script = document.createElement("script");
        script.append("window.ran = true");
        document.body.append(script);
    }""")
    assert view.page.evaluate("window.ran") is None
    fetch = "fetch('http://localhost:9/').then(() => 'fetched', () => 'blocked')"
    assert view.page.evaluate(fetch) == "blocked"
    view.page.wait_for_function("() => window.violations.length > 1")
    assert view.page.evaluate("window.violations") == [
        "require-trusted-types-for",
        "connect-src",
    ]
    view.page.context.close()


def test_a_hidden_page_closes_its_stream_and_catches_up(
    single: Daemon, views: Open
) -> None:
    """
    When it is shown again, it opens a stream and shows the newest state.
    """
    view = views(single)
    view.until_connection()
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    view.page.evaluate(hide, arg=True)
    view.until_connection("resting")
    step(single, times=7)
    assert view("position") == "0"
    view.page.evaluate(hide, arg=False)
    view.until("position", "7")
    view.until_connection()


def test_a_page_beyond_the_limit_connects_when_another_is_closed(
    tmp_path: Path, views: Open
) -> None:
    """
    Until then it shows that it has no connection.
    """
    with Daemon(tmp_path, "--max-connections", "8", command=WORKER) as daemon:
        first, second = views(daemon), views(daemon)
        first.until_connection()
        second.until_connection()
        third = views(daemon)
        third.until_connection("lost")
        first.page.close()
        third.until_connection()
        third.press("next")
        second.until("position", "1")


def test_a_browser_that_has_the_page_gets_304(far_daemon: Daemon) -> None:
    """
    Other clients get plain text.
    """
    browsers = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer, body = far_daemon.request("/", headers=browsers)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"<title>pexservice" in body
    again, nothing = far_daemon.request(
        "/", headers={**browsers, "If-None-Match": answer.headers["ETag"]}
    )
    assert (again.status, nothing) == (304, b"")
    assert far_daemon.request("/")[0].headers["Content-Type"] == "text/plain; charset=utf-8"

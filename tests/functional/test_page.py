"""
The live page in a browser.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.functional.test_wire import exchange
from tests.labs.attacks.attacking import request
from tests.support.browser import View, chromium, open_view
from tests.support.daemon import WORKER, Daemon, poll_attempts, wait_until_gone
from tests.support.forms import amount
from tests.support.ports import held_ports
from tests.support.stores import make_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Route

#: F(100,000) has 20,899 digits.
FAR = 100_000

pytestmark = [pytest.mark.needs("chromium", "playwright"), pytest.mark.once]

Open = Callable[..., View]

#: The options of a service without a standby.
ALONE = ("--standby", "0")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """
    Provide one browser for all tests.
    """
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def context(browser: Browser, lone_worker: Daemon) -> BrowserContext:
    """
    Provide a browser context with a page that stays open, and with it the process.

    A page in its own context takes three times as much processor time.
    """
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    context.new_page().goto(f"http://127.0.0.1:{lone_worker.port}/livez")
    return context


@pytest.fixture(scope="module")
def lone_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """
    Provide a worker without a supervisor, which makes no step for a GET request.
    """
    path = tmp_path_factory.mktemp("worker")
    with Daemon(path, "--post-only", command=WORKER) as daemon:
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


@pytest.fixture(scope="module")
def running_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """
    Provide a service with a standby, whose workers a test may kill.
    """
    with Daemon(tmp_path_factory.mktemp("service")) as daemon:
        yield daemon


@pytest.fixture
def service(running_service: Daemon) -> Daemon:
    """
    Provide this service with an active worker and a standby, at position 0.
    """
    running_service.until_up()
    running_service.step("reset")
    return running_service


@pytest.fixture
def views(context: BrowserContext) -> Iterator[Open]:
    """
    Provide a function that opens a page.  Afterwards no page may have reported an error.
    """
    opened: list[View] = []

    def opening(daemon: Daemon, context: BrowserContext = context) -> View:
        opened.append(open_view(context, daemon))
        return opened[-1]

    yield opening
    for view in opened:
        view.page.close()
    assert [view.own_errors for view in opened] == [[]] * len(opened)


@pytest.fixture
def view(lone_worker: Daemon, views: Open) -> View:
    """
    Provide the live page of the worker without a supervisor, at position 0.
    """
    lone_worker.step("reset")
    view = views(lone_worker)
    view.until_connection()
    view.until("value", "0")
    return view


@pytest.fixture
def service_view(service: Daemon, views: Open) -> View:
    """
    Provide the live page of the service with a standby.
    """
    return until_complete(views(service))


@pytest.fixture
def own_view(service: Daemon, views: Open, browser: Browser) -> View:
    """
    Provide the same page in its own browser context, which has a clock and a network.
    """
    return until_complete(views(service, browser.new_context()))


def until_complete(view: View) -> View:
    """
    Wait until the page of the service shows everything.
    """
    view.until("worker", view.daemon.active_worker()[0])
    view.until("standing-by", "1 of 1")
    view.until("value", "0")
    return view


def step(daemon: Daemon, times: int = 1) -> None:
    """
    Move the cursor as another client, whose requests arrive together.
    """
    steps = request(b"POST /next HTTP/1.1") * (times - 1)
    exchange(daemon, steps + request(b"POST /next HTTP/1.0"))


def test_each_click_makes_its_step_and_shows_value_and_history(view: View) -> None:
    """
    Without a supervisor, the page claims no standby.
    """
    view.until("worker", "one worker")
    assert view("standing-by") == view("takeovers") == "not known"
    before = view.daemon.revision()
    for name, position, value in (
        ("next", 1, 1),
        ("next", 2, 1),
        ("next", 3, 2),
        ("previous", 2, 1),
        ("reset", 0, 0),
        ("previous", 0, 0),
    ):
        view.press(name)
        view.until("position", str(position))
        view.until("value", str(value))
    revision = before + 6
    # The last step does not change the position, so the page shows only its revision.
    view.until("revision", f"{revision:,}")
    assert view.daemon.revision() == revision
    view.page.wait_for_function(
        "revision => document.querySelector('#history td').textContent === revision",
        arg=f"{revision:,}",
    )
    row = view["history"].locator("tr").first.inner_text().split()
    assert row[1:3] == ["previous", "0"]
    view.until("announcement", "Position 0: 0")
    assert view("message") == ""
    assert view.errors == []


def test_steps_of_other_clients_are_shown_and_not_announced(
    view: View, views: Open
) -> None:
    """
    A screen reader does not read these steps out.
    """
    other = views(view.daemon)
    step(view.daemon, times=12)
    view.until("value", "144")
    assert (view("before"), view("after")) == ("89", "233")
    other.until_connection()
    other.press("next")
    view.until("value", "233")
    assert view("announcement") == ""
    # The chart shows the steps too.
    view.until("position-range", "0 to 13")
    assert view.page.get_attribute("#positions .line", "d")
    assert view.errors == other.errors == []


def test_while_the_service_is_down_nothing_says_that_it_serves_and_a_step_waits(
    tmp_path: Path, views: Open
) -> None:
    """
    The page keeps a pressed step, and makes it once when the service is back.
    """
    with held_ports(1) as (port,):
        options = ("--listen", f"tcp:{port}:interface=127.0.0.1", *ALONE)
        with Daemon(tmp_path, *options) as daemon:
            view = views(daemon)
            view.until("worker", "worker-1")
            step(daemon, times=3)
            view.until("position", "3")
        view.until_connection("lost")
        assert view("connection-words") == "Reconnecting"
        for name in ("worker", "since", "standing-by", "takeovers"):
            assert view(name) == "not known"
        assert view("takeover") == "The connection to the service is lost …"
        words = view.page.locator("body").inner_text()
        assert not re.search(r"worker-\d|\bLive\b|\bserv(es|ing)\b", words)
        view.press("next")
        view.until_matches("message", "is repeated")
        assert view("position") == "3"
        with Daemon(tmp_path, *options) as daemon:
            view.until_connection()
            view.until("position", "4")
            view.until("message", "")
            assert daemon.revision() == 4
            view.until("worker", "worker-1")
            # The page does not know how long the service was down.
            view.until("takeover", "The service was started again, nothing lost")


def test_a_step_without_a_response_is_repeated_with_its_key(view: View) -> None:
    """
    The page repeats a step if its response was lost or says that the outcome is unknown.

    The step is made once.
    """
    revision = int(view("revision").replace(",", ""))
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
    view.until_matches("message", "may have been taken")
    view.until("message", "")
    view.press("next")
    view.until("position", "2")
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 2
    view.until("revision", f"{revision + 2:,}")


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


def test_after_a_minute_the_page_asks_before_it_repeats_a_step(own_view: View) -> None:
    """
    The page shows that the outcome is unknown.

    If the user agrees, the page repeats the step with the same key, and then makes the
    waiting steps.
    """
    view = own_view
    keys: list[str] = []

    def lose(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        route.abort()

    view.page.clock.install()
    view.page.route("**/next", lose)
    view.press("next")
    view.press("next")
    view.until_matches("message", "is repeated")
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


def test_a_refused_step_shows_the_reason_and_the_next_step_follows(view: View) -> None:
    """
    The page shows the C{detail} of the problem.
    """
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
    view = views(far_daemon)
    view.until("digits", "20,899")
    text = far_daemon.request("/current")[1].decode().strip()
    first, last = view("value").replace(" ", "").split("…")
    assert text.startswith(first)
    assert text.endswith(last)
    assert len(first) == len(last) == 24
    view["expand"].click()
    view.until_matches("all", r"[^]{9000}")
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


def test_copying_works_in_a_browser_without_navigator_clipboard(view: View) -> None:
    """
    Browsers have no C{navigator.clipboard} on a page from another machine without TLS.
    """
    step(view.daemon, times=150)
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
    Return the violations that axe finds, with dark colors too.
    """
    from axe_playwright_python import sync_playwright  # type: ignore[import-untyped]

    axe = sync_playwright.Axe()
    results = [axe.run(view.page)]
    view.page.emulate_media(color_scheme="dark")
    results.append(axe.run(view.page, options={"runOnly": ["color-contrast"]}))
    view.page.emulate_media(color_scheme="light")
    return [
        f"{violation['id']}: {node['html']}"
        for result in results
        for violation in result.response["violations"]
        for node in violation["nodes"]
    ]


def test_axe_finds_no_violation_in_any_state(
    service_view: View, far_daemon: Daemon, views: Open
) -> None:
    view = service_view
    if amount(short=False, long=True):
        assert violations(view) == []
    step(view.daemon, times=20)
    view.until("position", "20")
    view.page.wait_for_selector("#history tr:nth-child(10)")
    view.page.route("**/next", lambda route: route.abort())
    view.press("next")
    view.until_matches("message", ".")
    view.page.evaluate("document.getElementById('access').hidden = false")
    view.page.evaluate("document.getElementById('again').hidden = false")
    assert violations(view) == []
    far = views(far_daemon)
    far["expand"].click()
    far.until_matches("all", r"[^]{9000}")
    assert violations(far) == []


def test_every_control_works_with_the_keyboard(view: View) -> None:
    """
    Tab reaches the controls in their visible order, and shows a focus ring.

    Enter and Space press them.
    """
    revision = int(view("revision").replace(",", ""))
    seen = []
    keyboard = view.page.keyboard
    for press in ("Enter", "Space", *[None] * 8):
        keyboard.press("Tab")
        seen.append(view.page.evaluate("document.activeElement.innerText.trim()"))
        style = "getComputedStyle(document.activeElement).outlineStyle"
        assert view.page.evaluate(style) == "solid"
        if press:
            keyboard.press(press)
            view.until("revision", f"{revision + len(seen):,}")
    assert seen == [
        *("← Previous", "Next →", "Reset R", "Run 20 steps", "What this is"),
        *("/current", "/history", "/readyz", "/metrics", "/openapi.json"),
    ]
    view.until("position", "1")


def test_arrow_keys_make_steps_and_r_asks_before_a_reset(view: View) -> None:
    """
    The keys do nothing in a text field, and nothing together with Ctrl.
    """
    revision = int(view("revision").replace(",", ""))
    keyboard = view.page.keyboard
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        keyboard.press(key)
    view.until("revision", f"{revision + 4:,}")
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
    view.until("revision", f"{revision + 5:,}")
    view.page.evaluate("document.getElementById('access').hidden = false")
    view["token"].focus()
    keyboard.press("ArrowRight")
    keyboard.press("r")
    assert view["token"].input_value() == "r"
    assert not view["sure"].is_visible()
    assert view("revision") == f"{revision + 5:,}"


def test_values_of_any_length_move_no_button_and_need_no_wide_screen(
    view: View, far_daemon: Daemon, views: Open
) -> None:
    """
    A second click hits the same button.
    """
    widths = amount(short=(320, 390), long=(320, 375, 390, 768, 1400))
    places: dict[int, list[object]] = {width: [] for width in widths}
    far_view = views(far_daemon)
    for daemon, steps in (
        (view.daemon, 0),
        (view.daemon, 60),
        (view.daemon, 440),
        (far_daemon, 0),
    ):
        step(daemon, times=steps)
        shown = far_view if daemon is far_daemon else view
        position = int(daemon.request("/current")[0].headers["Pex-Position"])
        shown.until("position", f"{position:,}")
        if steps:
            shown.page.wait_for_selector("#history tr:nth-child(10)")
        for width in widths:
            shown.page.set_viewport_size({"width": width, "height": 800})
            places[width].append(shown.page.locator("[data-step=next]").bounding_box())
            expands = shown["expand"].is_visible()
            if expands:
                shown["expand"].click()
            assert shown.page.evaluate("document.documentElement.scrollWidth") == width
            if expands:
                shown["expand"].click()
    # On narrower screens, more text above the buttons wraps.
    assert all(places[width] == places[width][:1] * 4 for width in widths if width >= 390)


def kill_active_worker(view: View) -> str:
    """
    Kill the active worker, wait until the page shows its successor, and return this name.
    """
    wait_until_gone(view.daemon.kill_active_worker())
    view.daemon.until_up()
    successor, _ = view.daemon.active_worker()
    view.until("worker", successor)
    return successor


def test_the_page_reports_a_kill_and_continues_after_it_and_after_a_reload(
    service_view: View,
) -> None:
    """
    The page names the worker that ended and the one that took over, as in the log.

    It shows the pause, and says that no step is lost.  The chart has a mark.  The trace has
    a gap, and continues although the cursor has not moved.  The list of processes follows
    the takeover.

    SIGHUP ends the page's event stream, and the page opens one at the new worker.
    """
    view = service_view
    view.page.evaluate("window.untouched = true")
    takeovers = int(view("takeovers"))
    assert view.page.get_attribute("#positions .marks", "d") is None
    view["processes"].filter(has_text="standby").wait_for()
    shown = dict(re.findall(r"(\d+) \((\w+)\)", view("processes")))
    assert set(shown.values()) == {"running", "active", "standby"}
    (standby,) = (pid for pid, state in shown.items() if state == "standby")
    step(view.daemon, times=3)
    view.until("position", "3")
    ended, active = view.daemon.active_worker()
    assert shown[str(active)] == "active"
    successor = kill_active_worker(view)
    view.until_matches(
        "takeover",
        f"^{ended} ended, {successor} took over( after [0-9a-z, ]+ ms)?, nothing lost$",
    )
    view.until("takeovers", str(takeovers + 1))
    view.page.wait_for_selector("#positions .marks[d]", state="attached")
    view.page.wait_for_function(
        "() => document.querySelector('#positions .line').getAttribute('d')"
        ".split('M').length > 2"
    )
    assert re.fullmatch(rf"{successor} at \d\d:\d\d:\d\d", view("mark-names"))
    view.until("standing-by", "1 of 1")
    assert view.daemon.active_worker()[0] == successor
    after = view["processes"].filter(has_text=f"{standby} (active)")
    after.filter(has_not_text=f" {active} (").wait_for()
    view.press("next")
    view.until("position", "4")
    view.daemon.reload()
    step(view.daemon)
    view.until("position", "5")
    view.until_connection()
    assert view.page.evaluate("window.untouched")


def test_takeovers_are_shown_for_ten_seconds_without_scrolling(own_view: View) -> None:
    """
    The message is next to the cursor, and no other element moves.

    A second takeover within ten seconds gets its own line below the first.
    """
    view = own_view
    button = view.page.locator("[data-step=next]")
    view.stop_clock()
    lines = view["news"].locator("span")
    for number in range(2):
        successor = kill_active_worker(view)
        lines.nth(number).filter(has_text="nothing lost").wait_for()
        assert lines.nth(number).inner_text().startswith(f"{successor} took over")
        view.until("standing-by", "1 of 1")
    # Let the page draw the chart.
    view.page.clock.run_for(200)
    assert view.page.evaluate("scrollY") == 0
    places = {}
    for width, height in ((390, 844), (1280, 800)):
        view.page.set_viewport_size({"width": width, "height": height})
        first, second = (lines.nth(number).bounding_box() for number in range(2))
        assert first is not None
        assert second is not None
        assert first["y"] + first["height"] <= second["y"]
        for box in (first, second):
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width
            assert 0 <= box["y"] <= box["y"] + box["height"] <= height
        places[width] = button.bounding_box()
    # The names of the takeovers are normal text, so they cannot overlap.
    assert len(re.findall(r"worker-\d at ", view("mark-names"))) == 2
    view.page.clock.fast_forward(10_000)
    view.until("news", "")
    assert "took over" in view("takeover")
    assert button.bounding_box() == places[1280]
    view.page.set_viewport_size({"width": 390, "height": 844})
    assert button.bounding_box() == places[390]
    for text in ("was started again after 10,000 ms", "took over after less than 1 ms"):
        view.page.evaluate("text => void flash(text)", f"worker-2 {text}; nothing lost")
    assert button.bounding_box() == places[390]


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
    own_view: View,
) -> None:
    """
    After 40 seconds without an event, the page tries to open a stream until it succeeds.
    """
    view = own_view
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
    view.until("worker", view.daemon.active_worker()[0])
    assert len(streams) == 2


def test_the_page_notices_that_the_network_goes_and_comes(own_view: View) -> None:
    """
    The event C{offline} ends the stream, and C{online} opens a new one.

    The page then says that the worker is the same, and reports no takeover.
    """
    view = own_view
    view.page.context.set_offline(True)
    view.until_connection("lost")
    assert view("worker") == "not known"
    step(view.daemon)
    view.page.context.set_offline(False)
    view.until_connection()
    view.until("position", "1")
    view.until("worker", view.daemon.active_worker()[0])
    view.until("takeover", "The connection was lost and is back, to the same worker")
    assert view("news") == ""


def test_a_second_break_takes_back_that_the_worker_is_the_same(own_view: View) -> None:
    """
    A worker accepts streams a moment before the supervisor records its takeover.

    So the page waits before it says that the worker is the same.
    """
    view = own_view
    view.page.evaluate(_WATCH)
    # The kill must come before the page reports that the worker is the same.
    view.stop_clock()
    view.page.evaluate("reconnect()")
    view.until_connection()
    kill_active_worker(view)
    view.until_matches("takeover", "nothing lost$")
    view.page.clock.run_for(2500)
    assert not [text for text in view.page.evaluate("reports") if "same worker" in text]


def test_page_reports_lost_steps(service_view: View) -> None:
    """
    Without synchronous commit, a service may lose answered steps.
    """
    view = service_view
    step(view.daemon, times=3)
    view.until("position", "3")
    headers = {"Pex-Revision": str(view.daemon.revision() - 2)}
    view.page.route("**/current", lambda route: route.fulfill(status=200, headers=headers))
    view.daemon.kill_active_worker()
    view.until_matches("takeover", ", 2 steps lost$")


def test_the_small_load_makes_each_step_once_despite_a_kill(service_view: View) -> None:
    """
    The page shows the sizes of the batches in which the steps were committed.
    """
    view = service_view
    revision = view.daemon.revision()
    view["load"].click()
    view.until("position", "20")
    view.page.wait_for_selector("#batches span")
    text = view("load-result")
    assert text.startswith("20 steps were answered in ")
    sizes = [int(size) for size in text.rpartition(" of ")[2].strip(".").split(", ")]
    assert sum(sizes) == 20
    assert view["batches"].locator("span").count() == len(sizes)
    view["load"].click()
    view.daemon.kill_active_worker()
    view.until("position", "40")
    view.page.wait_for_selector("#load:enabled")
    assert view.daemon.revision() == revision + 40


def test_a_step_waits_until_the_token_is_entered(tmp_path: Path, views: Open) -> None:
    """
    The page does not store the token.  Without a supervisor, it shows no processes.
    """
    tokens = tmp_path / "tokens"
    tokens.write_text("opensesame\n")
    tokens.chmod(0o600)
    with Daemon(tmp_path, "--token-file", str(tokens), command=WORKER) as daemon:
        view = views(daemon)
        view.until("worker", "one worker")
        assert not view["processes"].is_visible()
        assert not view["access"].is_visible()
        view.press("next")
        view.until("message", "The step waits: moving the cursor requires a token.")
        view["token"].fill("wrong")
        view.page.keyboard.press("Enter")
        view.until("message", "The step waits: this token may not move the cursor.")
        view["token"].fill("opensesame")
        view.page.keyboard.press("Enter")
        view.until("position", "1")
        assert not view["access"].is_visible()
        view.press("next")
        view.until("position", "2")
        kept = "localStorage.length + sessionStorage.length + document.cookie.length"
        assert view.page.evaluate(kept) == 0
        assert view["token"].input_value() == ""


def test_the_content_security_policy_blocks_other_scripts_and_hosts(
    far_daemon: Daemon, context: BrowserContext
) -> None:
    view = open_view(context, far_daemon)
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
    view.page.close()


def test_a_hidden_page_closes_its_stream_and_catches_up(view: View) -> None:
    """
    When it is shown again, it opens a stream and shows the newest state.
    """
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    view.page.evaluate(hide, arg=True)
    view.until_connection("resting")
    step(view.daemon, times=7)
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
        first, second = (views(daemon) for _ in range(2))
        first.until_connection()
        second.until_connection()
        third = views(daemon)
        third.until_connection("lost")
        first.page.close()
        third.until_connection()
        third.press("next")
        second.until("position", "1")

"""
The live page in Debian's Chromium.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define, field

from tests.support.daemon import TIMEOUT_SECONDS, Daemon

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page

CHROMIUM = Path("/usr/bin/chromium")

#: How Chromium's message begins when a server closes or refuses a connection.
NETWORK = "Failed to load resource:"

# A script that reports each violation of the content security policy as an error.
_REPORT_VIOLATIONS = """
    window.violations = []
    addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
        violations.push(violatedDirective)
        console.error(`the policy forbids ${blockedURI}: ${violatedDirective}`)
    })
"""


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """
    Start Chromium with additional C{arguments} on its command line.

    All pages from this machine in one browser context share a process.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox does not run as root.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--process-per-site", *arguments],
        )
        yield browser
        browser.close()


# Playwright sets attributes on the object whose method is a callback.
@define(slots=False)
class View:
    """
    The live page in a browser context.

    @ivar errors: the errors and warnings on the console.
    """

    page: Page
    daemon: Daemon
    errors: list[str] = field(factory=list)

    def __getitem__(self, name: str) -> Locator:
        """
        Return the element with the id C{name}.
        """
        return self.page.locator(f"#{name}")

    def __call__(self, name: str) -> str:
        """
        Return the text of the element with the id C{name}.
        """
        return self[name].inner_text()

    def press(self, name: str) -> None:
        """
        Click the button of a step.  A reset has to be confirmed.
        """
        if name == "reset":
            self["ask-reset"].click()
        self.page.click(f"[data-step={name}]")

    def until(self, name: str, text: str) -> None:
        """
        Wait until the element with the id C{name} has this text.
        """
        self.page.wait_for_function(
            "([name, text]) => document.getElementById(name).innerText === text",
            arg=[name, text],
        )

    def until_matches(self, name: str, pattern: str) -> None:
        """
        Wait until the text of the element with the id C{name} matches a pattern.
        """
        self.page.wait_for_function(
            "([name, pattern]) => document.getElementById(name).innerText.match(pattern)",
            arg=[name, pattern],
        )

    def until_connection(self, state: str = "live") -> None:
        """
        Wait until the page shows this state of its connection.
        """
        self.page.wait_for_selector(f"#connection[data-state={state}]")

    def stop_clock(self) -> None:
        """
        Stop the page's clock.  From then on only C{page.clock} moves it.
        """
        self.page.clock.install()
        self.page.clock.pause_at(self.page.evaluate("Date.now() / 1000 + 1"))

    def noted(self, message: ConsoleMessage) -> None:
        """
        Keep a console message if it is an error or a warning.
        """
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    @property
    def own_errors(self) -> list[str]:
        """
        The errors except those that Chromium reports about the network.
        """
        return [error for error in self.errors if not error.startswith(NETWORK)]


def open_view(context: BrowserContext, daemon: Daemon) -> View:
    """
    Open the live page of C{daemon}.
    """
    view = View(context.new_page(), daemon)
    view.page.set_default_timeout(TIMEOUT_SECONDS * 1000)
    view.page.add_init_script(_REPORT_VIOLATIONS)
    view.page.on("console", view.noted)
    view.page.on("pageerror", lambda error: view.errors.append(str(error)))
    view.page.goto(f"http://127.0.0.1:{daemon.port}/")
    return view

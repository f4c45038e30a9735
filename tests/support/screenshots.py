"""
Take the screenshots of the live page for C{docs/page/}.

They show the page after the start, during use, after a kill, and without the service.

Screenshots depend on fonts and on timing.  So C{make screenshots} is called by hand, and
a developer looks at the result.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import ViewportSize

from tests.support.browser import chromium, open_view
from tests.support.daemon import Daemon

PICTURES = Path("docs/page")

SIZE: ViewportSize = {"width": 1100, "height": 1590}

WALK_SECONDS = 50


def _walk(daemon: Daemon) -> None:
    """
    Move the cursor up and down at a changing speed.
    """
    chance = random.Random(1)  # noqa: S311 no secret
    connection = daemon.connect()
    begun = time.monotonic()
    while (gone := time.monotonic() - begun) < WALK_SECONDS:
        up = 0.9 if gone % 20 < 14 else 0.2
        path = "/next" if chance.random() < up else "/previous"
        connection.request("POST", path)
        connection.getresponse().read()
        time.sleep(chance.uniform(0, 0.5 if gone % 16 < 8 else 0.1))
    connection.close()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as path, chromium() as browser:
        with Daemon(Path(path)) as daemon:
            view = open_view(browser.new_context(viewport=SIZE), daemon)
            view.until("value", "0")
            view.page.screenshot(path=PICTURES / "start.png")
            dark_context = browser.new_context(viewport=SIZE, color_scheme="dark")
            dark = open_view(dark_context, daemon)
            dark.until_connection()
            _walk(daemon)
            view.page.wait_for_timeout(1500)
            view.page.screenshot(path=PICTURES / "under-way.png")
            view["load"].click()
            view.page.wait_for_selector("#batches span")
            daemon.kill_active_worker()
            view.page.wait_for_function(
                "() => document.getElementById('takeover').innerText.includes('lost')"
            )
            view.page.wait_for_timeout(3000)
            view.page.screenshot(path=PICTURES / "after-a-kill.png")
        dark.until_connection("lost")
        dark.press("next")
        dark.page.wait_for_timeout(4000)
        dark.page.screenshot(path=PICTURES / "reconnecting.png")


if __name__ == "__main__":
    main()

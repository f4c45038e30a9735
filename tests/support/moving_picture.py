"""
Record the moving picture of the README.

It shows the live page and a terminal: a load starts, C{kill -9} ends the active worker, and
the load prints its outcome.

Nothing is staged: the commands run, Chromium shows the page, and the log is the service's.
Chromium also draws the terminal.  The picture shows the speed of one run, so C{make
moving-picture} is called by hand, and a developer looks at the result.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, field
from PIL import Image
from playwright.sync_api import Browser, ViewportSize

from tests.support.browser import View, chromium, open_view
from tests.support.daemon import Daemon, wait_until

PICTURE = Path("docs/page/kill.webp")

#: The size of the browser's window, and the size of its picture.
WINDOW: ViewportSize = {"width": 920, "height": 860}
SHOWN = (612, 572)

#: The size of the terminal, next to the window.
TERMINAL: ViewportSize = {"width": 428, "height": 572}

LOAD_SECONDS = 6
KILL_AFTER_SECONDS = 2.5
#: The last frame is shown for this long, so that it can be read.
LAST_FRAME_SECONDS = 3.5

_STYLE = """
body { margin: 0; display: grid; grid-template-rows: 1fr 1fr; height: 572px;
  background: #14161a; color: #ebe8e1; font: 12.5px/1.45 "DejaVu Sans Mono", monospace; }
section { padding: 10px 12px; overflow: hidden; border-left: 1px solid #30353e; }
section + section { border-top: 1px solid #30353e; }
h1 { margin: 0 0 6px; color: #a4a9b3; font: 11px "DejaVu Sans", sans-serif; }
pre { margin: 0; font: inherit; white-space: pre-wrap; overflow-wrap: anywhere; }
b { color: #e3b659; }
"""


@define
class Terminal:
    """
    Two panes: the service's log, and the commands with their output.
    """

    log: Path
    typed: str = ""

    def html(self) -> str:
        lines = self.log.read_text().splitlines()
        log_lines = [re.sub(r"^\S+T(\S+?)Z ", r"\1 ", line) for line in lines]
        log_lines = [
            line for line in log_lines if not re.search("starting up|reactor class", line)
        ]
        # The typed commands are bold.
        typed = re.sub(r"(?m)^(\$ .*)$", r"<b>\1</b>", escape(self.typed))
        return (
            f"<style>{_STYLE}</style><section><h1>the log of the service</h1><pre>"
            + escape("\n".join(log_lines[-9:]))
            + f"</pre></section><section><h1>a terminal</h1><pre>{typed}</pre></section>"
        )


@define
class Recording:
    """
    The frames: the time, the page, and the terminal's HTML.
    """

    view: View
    terminal: Terminal
    frames: list[tuple[float, bytes, str]] = field(factory=list)

    def take(self) -> None:
        """
        Record one frame.
        """
        html = self.terminal.html()
        now = time.monotonic()
        self.frames.append((now, self.view.page.screenshot(), html))

    def go_on(self, seconds: float) -> None:
        """
        Record frames for C{seconds}.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.take()

    def type(self, command: str) -> None:
        """
        Record frames while a command is typed.
        """
        self.terminal.typed += "$ "
        for part in re.findall(r".{1,7}", command):
            self.terminal.typed += part
            self.take()
        self.terminal.typed += "\n"
        self.take()


def record(recording: Recording, daemon: Daemon) -> None:
    """
    Run everything, and record the frames.
    """
    url = f"http://127.0.0.1:{daemon.port}"
    pexctl = [sys.executable, "-m", "pexservice.cli.pexctl"]
    command = f"load --url {url} --seconds {LOAD_SECONDS}"
    recording.go_on(0.5)
    recording.type(f"pexctl {command} &")
    began = time.monotonic()
    with subprocess.Popen([*pexctl, *command.split()], stdout=subprocess.PIPE) as load:
        recording.go_on(KILL_AFTER_SECONDS)
        recording.type(f"kill -9 {daemon.active_worker()[1]}")
        daemon.kill_active_worker()
        recording.go_on(began + LOAD_SECONDS + 0.5 - time.monotonic())
        output = load.communicate()[0].decode()
    assert load.returncode == 0, output
    recording.terminal.typed += output
    recording.go_on(0.3)
    recording.frames.append(
        (time.monotonic() + LAST_FRAME_SECONDS, *recording.frames[-1][1:])
    )


def pictures(browser: Browser, recording: Recording) -> Iterator[Image.Image]:
    """
    Put page and terminal of each frame next to each other.
    """
    page = browser.new_page(viewport=TERMINAL)
    drawn: dict[str, bytes] = {}
    for _, screenshot, html in recording.frames:
        if html not in drawn:
            page.set_content(html)
            drawn[html] = page.screenshot()
        whole = Image.new("RGB", (SHOWN[0] + TERMINAL["width"], SHOWN[1]))
        shown = Image.open(io.BytesIO(screenshot)).convert("RGB")
        whole.paste(shown.resize(SHOWN, Image.Resampling.LANCZOS))
        whole.paste(Image.open(io.BytesIO(drawn[html])).convert("RGB"), (SHOWN[0], 0))
        yield whole


def main() -> None:
    with TemporaryDirectory() as path, chromium() as browser, Daemon(Path(path)) as daemon:
        view = open_view(browser.new_context(viewport=WINDOW), daemon)
        view.until("standing-by", "1 of 1")
        wait_until(lambda: "standby: waiting for" in daemon.log.read_text(), "a standby")
        recording = Recording(view, Terminal(daemon.log))
        record(recording, daemon)
        first, *others = pictures(browser, recording)
    moments = [moment for moment, _, _ in recording.frames]
    durations = [round(1000 * (later - earlier)) for earlier, later in pairwise(moments)]
    first.save(
        PICTURE,
        save_all=True,
        append_images=others[:-1],
        duration=durations,
        loop=0,
        quality=60,
        method=6,
    )
    size = PICTURE.stat().st_size
    print(
        f"{PICTURE}: {len(durations)} frames, {sum(durations) / 1000:.1f} s, {size} bytes"
    )


if __name__ == "__main__":
    main()

"""
Witnesses of a power cut, which can tell the state before it.

They are clients of the service, and a writer that must lose something.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from select import select

from attrs import Factory, define

from tests.labs.power_cuts import unsynced
from tests.support.clients import AcknowledgedStep, Client
from tests.support.daemon import TIMEOUT_SECONDS

#: The step of the clients without keys, and of no others: so the history tells whose step
#: each was, and a step with a key that was made twice shows as nobody's.
KEYLESS_WORD = "previous"


@define(eq=False)
class Stepper(Client):
    """
    A client that steps as fast as it is answered, until an answer stays away.

    @ivar life: makes the keys of this client unlike those of others.
    @ivar keyed: by key, each answer to it.
    @ivar unknown: the step that may or may not have been made, and its key.
    """

    life: str = ""
    keyed: dict[str, AcknowledgedStep] = Factory(dict)
    unknown: tuple[str, str | None] | None = None

    def run(self) -> None:
        """
        Step until told to stop, or cut off.
        """
        choose = random.Random(f"{self.life}-{self.number}")  # noqa: S311 nothing secret
        count = 0
        while not self.stopping.is_set() and self.unknown is None:
            count += 1
            if self.number % 3:
                word = choose.choices(["next", "reset"], [99, 1])[0]
                self.step(word, f"{self.life}-{self.number}-{count}")
            else:
                self.step(KEYLESS_WORD, None)
        self._close()

    def step(self, word: str, key: str | None) -> bool:
        """
        Make one step.

        @return: whether it had been made before.
        """
        header = "" if key is None else f"Idempotency-Key: {key}\r\n"
        sent = f"POST /{word} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode()
        began, replayed = time.monotonic(), self.replayed
        try:
            answer = self._exchange(sent)
        except OSError:
            answer = b"HTTP/1.1 503 "
        if answer.startswith(b"HTTP/1.1 503 "):
            # The store failed under the step, or the daemon ended.
            self.unknown = (word, key)
            return False
        self._note(word, began, answer)
        if key is not None and not self.surprises:
            self.keyed[key] = self.acknowledged[-1]
        return self.replayed > replayed

    def close(self) -> None:
        """
        Close the connection of a client that was never started.
        """
        self._close()


@define
class Unsynced:
    """
    The negative control, on the volume whose power is cut.

    @ivar cuts: how many cuts it saw while it wrote.
    @ivar losses: after how many of them something was missing that LMDB had committed.
    """

    path: Path
    cuts: int = 0
    losses: int = 0

    _process: subprocess.Popen[bytes] | None = None
    _committed: int = 0

    def start(self) -> None:
        """
        Start after the recovery; compare, and write on.
        """
        before = self._committed
        self._process = subprocess.Popen(
            [sys.executable, unsynced.__file__, str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        ready, _, _ = select([self._process.stdout], [], [], TIMEOUT_SECONDS)
        # Without syncs the file may be damaged as well, and the writer die of it.
        line = self._process.stdout.readline() if ready else b""
        if before:
            self.cuts += 1
            self.losses += not line or int(line) < before
        if not line:
            self.kill()
            shutil.rmtree(self.path, ignore_errors=True)

    def kill(self) -> None:
        """
        Kill the writer after the cut, or at the end.
        """
        self._committed = 0
        if self._process is None:
            return
        self._process.kill()
        output, _ = self._process.communicate()
        self._process = None
        # The last line may be half a line.
        *lines, _ = output.split(b"\n")
        self._committed = int(lines[-1]) if lines else 0

"""
The clients of a service whose power is cut, and a writer that must lose data.
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

#: The transition of all steps without a key, and of no others.  So the history shows whose
#: step each was: a step with a key that was made twice would match no client.
KEYLESS_TRANSITION = "previous"


@define(eq=False)
class SteppingClient(Client):
    """
    A client that makes steps until there is no response.

    @ivar key_prefix: makes the keys of this client different from those of other clients.
    @ivar steps_by_key: by key, the step in the last response.
    @ivar unknown: the transition and the key of the step with an unknown outcome.
    """

    key_prefix: str = ""
    steps_by_key: dict[str, AcknowledgedStep] = Factory(dict)
    unknown: tuple[str, str | None] | None = None

    def run(self) -> None:
        rng = random.Random(f"{self.key_prefix}-{self.number}")  # noqa: S311 nothing secret
        count = 0
        while not self.stopping.is_set() and self.unknown is None:
            count += 1
            if self.number % 3:
                word = rng.choices(["next", "reset"], [99, 1])[0]
                self.step(word, f"{self.key_prefix}-{self.number}-{count}")
            else:
                self.step(KEYLESS_TRANSITION, None)
        self._close()

    def step(self, word: str, key: str | None) -> bool:
        """
        Make one step.

        @return: whether the response was a replay.
        """
        header = "" if key is None else f"Idempotency-Key: {key}\r\n"
        sent = f"POST /{word} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode()
        began, replayed = time.monotonic(), self.replayed
        try:
            response = self._exchange(sent)
        except OSError:
            response = b"HTTP/1.1 503 "
        if response.startswith(b"HTTP/1.1 503 "):
            # The store failed during the step, or the daemon ended.
            self.unknown = (word, key)
            return False
        self._note(word, began, response)
        if key is not None and not self.surprises:
            self.steps_by_key[key] = self.acknowledged[-1]
        return self.replayed > replayed


@define
class NegativeControl:
    """
    The negative control: LMDB without flushes, on the volume whose power is cut.

    @ivar cuts: after how many cuts the data was checked.
    @ivar control_losses: after how many of them a committed number was missing.
    """

    path: Path
    cuts: int = 0
    control_losses: int = 0

    _process: subprocess.Popen[bytes] | None = None
    _committed: int = 0

    def start(self) -> None:
        """
        Start the writer after a recovery, check what it finds, and let it write.
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
        # Without flushes, the file may be damaged too, and the writer may crash.
        line = self._process.stdout.readline() if ready else b""
        if before:
            self.cuts += 1
            self.control_losses += not line or int(line) < before
        if not line:
            self.kill()
            shutil.rmtree(self.path, ignore_errors=True)

    def kill(self) -> None:
        """
        Kill the writer after a cut or at the end.
        """
        self._committed = 0
        if self._process is None:
            return
        self._process.kill()
        output, _ = self._process.communicate()
        self._process = None
        # The last line may be incomplete.
        *lines, _ = output.split(b"\n")
        self._committed = int(lines[-1]) if lines else 0

"""
Text from outside: from a small file, and from another program, made safe to print.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

#: The size of the largest file that an option may name.
MAX_FILE_BYTES = 1 << 20

MAX_CHARACTERS = 300

#: How much of unexpected content a message quotes.
MAX_QUOTED_CHARACTERS = 60


def read_small_file(path: str) -> bytes:
    """
    Return the content of a small file.

    @raise OSError: C{path} cannot be read, is a FIFO, or is too large.
    """
    file = Path(path)
    # Opening a FIFO would block for ever.
    if file.is_fifo():
        raise OSError(errno.EINVAL, "this is a FIFO, not a file")
    with file.open("rb") as opened:
        content = opened.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return content


def printable(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """
    Return the beginning of C{text} as one line that is safe to print on a terminal.
    """
    # Only the beginning is split, because the text may be very long.
    line = " ".join(text[: 4 * max_characters].split())
    if len(line) > max_characters or len(text) > 4 * max_characters:
        line = f"{line[:max_characters]}..."
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode("ascii")
        for character in line
    )


def without_password(message: str) -> str:
    """
    Return a message without the user and the password in a URL.
    """
    # The scheme may be missing, as in user:password@host.  A password may contain a blank
    # only after a scheme: elsewhere, a blank separates two words of the message.
    return re.sub(r"(?://(?:\S*|[^/@]*)|\b[\w.+-]+:[^\s/@]*)@", _mask, message)


def _mask(match: re.Match[str]) -> str:
    return "//...@" if match[0].startswith("//") else "...@"


def quoted(content: bytes) -> str:
    """
    Return the beginning of unexpected content in quotes.
    """
    text = content[: 8 * MAX_QUOTED_CHARACTERS].decode("utf-8", "replace")
    return f"'{printable(text, MAX_QUOTED_CHARACTERS)}'"

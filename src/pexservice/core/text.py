"""
Text from another program, made safe to print.
"""

from __future__ import annotations

MAX_CHARACTERS = 300


def printable(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """
    Return the beginning of C{text} as one line that is safe to print on a terminal.
    """
    # Only the beginning is split into words: the text may be very long.
    line = " ".join(text[: 4 * max_characters].split())
    if len(line) > max_characters or len(text) > 4 * max_characters:
        line = f"{line[:max_characters]}..."
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode("ascii")
        for character in line
    )

"""
The log observer under the name that a supervisor of version 0.1.0 starts workers with.

An upgrade replaces the code below a running supervisor, which goes on with the command
line that it knows.  Nothing else imports this module.
"""

import sys

from twisted.logger import FileLogObserver, eventAsText


def observer() -> FileLogObserver:
    """
    Return the observer for C{twistd --logger}, which writes lines without a time.

    The log of the supervisor of version 0.1.0 has a time itself.
    """
    return FileLogObserver(
        sys.__stdout__,  # type: ignore[arg-type]
        lambda event: eventAsText(event, includeTimestamp=False) + "\n",
    )

"""
The log observer under the name that a supervisor of version 0.1.0 starts workers with.

An upgrade replaces the code below a running supervisor, which goes on with the command
line that it knows.  Nothing else imports this module.
"""

from pexservice.worker.lifecycle import observer

__all__ = ["observer"]

"""
The end of a standby of version 0.1.0 whose code was replaced.

Such a standby imports its listener under this name, and only when it takes over.  The
modules that it would need besides are gone by then, so it would hold the store and
answer nobody.  It ends instead, and its supervisor starts a worker with the code that
is there.  Nothing else imports this module.
"""

import os

os.write(2, b"the code of this standby was replaced, so another worker takes over\n")
# An exception would end the start of this worker and not the process.
os._exit(1)

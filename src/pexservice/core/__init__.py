"""
The sequence and the cursor, as pure functions: no Twisted, no store, no clock.
"""

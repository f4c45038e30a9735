"""
The sequence, the cursor, base URLs and text.

No module here uses a reactor, a store or a clock.
"""

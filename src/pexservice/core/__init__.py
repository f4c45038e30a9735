"""
The sequence, the cursor, base URLs and text.  Nothing here uses Twisted or a clock.
"""

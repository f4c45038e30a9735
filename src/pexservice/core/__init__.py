"""
The sequence, the cursor, base URLs and text.  Nothing here uses a reactor or a clock.
"""

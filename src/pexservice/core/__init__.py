"""
The sequence and the cursor: pure, without Twisted, LMDB or a clock.
"""

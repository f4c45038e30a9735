"""
Repeated kills of the active worker, and the pauses that clients notice.
"""

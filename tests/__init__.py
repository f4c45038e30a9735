"""
One module a room; C{functional} runs the real daemon.
"""

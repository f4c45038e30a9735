"""
Cut the power under load on file systems of the test's own.
"""

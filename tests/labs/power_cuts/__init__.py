"""
Power cuts under load, on file systems that the test creates.
"""

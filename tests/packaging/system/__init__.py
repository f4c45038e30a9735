"""
Tests of the Debian package, installed on a real systemd.
"""

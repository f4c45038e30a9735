"""
Tests of the tools that tests share.
"""

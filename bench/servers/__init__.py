"""
Small servers to compare with, each a program.
"""

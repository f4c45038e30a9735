"""
Small servers to compare pexservice with, each a program.
"""

"""
Small servers to compare pexservice with; each is a program.
"""

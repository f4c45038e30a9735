"""
Laboratories: long experiments, each with a short form that is a test.
"""

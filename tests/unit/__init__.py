"""
Tests of one module each; the folders mirror C{src/pexservice}.
"""

"""
What tests share: fakes, real daemons, and clients that keep records.
"""

"""
The parts that tests share: fakes, a daemon of the test's own, clients that keep records.
"""

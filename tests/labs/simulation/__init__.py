"""
A simulated machine: a disk, a clock, processes that die, and clients.

The code under test is real: each process has its own committer, sends heartbeats as a
worker does, and is controlled by the real supervisor.  Only the disk, the clock and the
processes are simulated.  Nothing happens by itself: the simulation gives each process its
turns, and ends each commit.
"""

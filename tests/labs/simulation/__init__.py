"""
A machine that is not there: a disk, a clock, processes that die, clients.

What decides is the real code: each process has a committer of its own on the disk that
all share, beats as a worker does, and is kept by the real supervisor.  What is
simulated is what they stand on, and nothing here happens by itself: a process gets on
when it is given a turn, a commit ends when it is ended.
"""

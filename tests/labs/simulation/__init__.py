"""
A machine that is not there: a disk, a clock, processes that die, clients.

The code that decides is real: each process has its own committer on the disk that all
share, beats as a worker does, and is kept by the real supervisor.  Only the disk, the clock
and the processes are simulated, and nothing here happens by itself: a process gets on when
it is given a turn, a commit ends when it is ended.
"""

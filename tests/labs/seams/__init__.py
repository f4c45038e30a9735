"""
Random operations on the processes, the files and the store of a service under load.
"""

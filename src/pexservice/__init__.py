"""
A durable cursor over the Fibonacci sequence, served over HTTP by Twisted.
"""

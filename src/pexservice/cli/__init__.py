"""
The command lines of C{twistd pexservice} and C{pexctl}.
"""

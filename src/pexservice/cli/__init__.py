"""
The commands: what C{twistd pexservice} and C{pexctl} read from their command lines.
"""

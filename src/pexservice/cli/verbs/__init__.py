"""
The verbs of C{pexctl}: their parsers are in C{VERBS} of L{pexservice.cli.verb}.
"""

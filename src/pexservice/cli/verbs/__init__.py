"""
The verbs of C{pexctl}: the table is L{pexservice.cli.pexctl.VERBS}.
"""

"""
The verbs of C{pexctl}: their parsers are L{pexservice.cli.verb.VERBS}.
"""

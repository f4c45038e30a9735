"""
The verbs of C{pexctl}.  When a module is imported, it adds its verbs to the parser.
"""

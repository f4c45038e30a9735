"""
The verbs of C{pexctl}, one module each, and one for the three that make a step.

Each verb has a C{SUMMARY}, which is a clause, a C{DESCRIPTION}, which is the rest of the
help, C{add_arguments} and C{run}; see L{pexservice.cli.pexctl.Verb}.  A verb imports its
tools when it runs, so that no verb pays for another.
"""

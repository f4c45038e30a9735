"""
The verbs of C{pexctl}, one module each.

Each has a C{SUMMARY}, which is a clause, a C{DESCRIPTION} of what else there is to say,
C{add_arguments} and C{run}; see L{pexservice.cli.pexctl.Verb}.  What a verb works with is
imported when it runs, so that no verb pays for another.
"""

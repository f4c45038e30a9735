"""
What C{twistd} finds.
"""

from twisted.application.service import ServiceMaker

pexservice = ServiceMaker(
    "pexservice",
    "pexservice.options.service",
    "A durable cursor over the Fibonacci sequence, over HTTP.",
    "pexservice",
)

pexservice_worker = ServiceMaker(
    "pexservice worker",
    "pexservice.options.worker",
    "One pexservice worker, for who brings a supervisor of their own.",
    "pexservice-worker",
)

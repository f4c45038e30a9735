"""
The plugins of this package for C{twistd}: two commands and a reactor.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

pexservice = ServiceMaker(
    "pexservice",
    "pexservice.cli.twistd.ServicePlugin",
    "A durable cursor over the Fibonacci sequence, over HTTP.",
    "pexservice",
)

pexservice_worker = ServiceMaker(
    "pexservice worker",
    "pexservice.cli.twistd.WorkerPlugin",
    "One pexservice worker, for another supervisor than ours.",
    "pexservice-worker",
)

pexservice_uvloop = Reactor(
    "uvloop",
    "pexservice.server.reactor",
    "Twisted's asyncio reactor on uvloop's event loop.",
)

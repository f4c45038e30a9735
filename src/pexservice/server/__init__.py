"""
The HTTP server of one worker: connections, the parser, plans, and responses on the wire.

The path of a request and its response::

    bytes -> Connection -> HeadReader -> Plans -> Performer -> committer
          <- ResponseWriter <- Connection.respond(outcome, state) <-

A L{Connection<pexservice.server.connection.Connection>} is an C{asyncio.Protocol}, and
the committer's waiter for the request that is being performed.  The
L{HeadReader<pexservice.server.parser.HeadReader>} reads a head once.  The Klein app is
asked once what such heads mean, and its result is remembered as a
L{Plan<pexservice.server.plans.Plan>}.

Most requests of a client differ in a few neighbouring lines only.  Here is one as a
L{Template<pexservice.server.plans.Template>} sees it::

    prefix          POST /next HTTP/1.1
                    Host: localhost:8081
                    User-Agent: python-requests/2.32.3
                    Accept: application/json
    varying part    Idempotency-Key: 8e03978e-40d5-43e8-bc93-6894a57f9324
                    X-Request-ID: 4f6dc1e2
    suffix          Content-Type: application/json
                    Content-Length: 2

                    {}

The prefix and the suffix are compared as a whole.  Of the varying part only the values are
read: the key is an argument of the plan, and the id changes nothing.
"""

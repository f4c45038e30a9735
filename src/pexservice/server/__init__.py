"""
The HTTP server of one worker: connections, the parser, plans, and responses as bytes.

A request and its response take this path::

    bytes -> Connection -> HeadReader -> Plans -> RequestChecker -> committer
    committer -> Connection.respond(outcome, state) -> ResponseWriter -> bytes

A L{Connection<pexservice.server.connection.Connection>} is an C{asyncio.Protocol}.  The
L{HeadReader<pexservice.server.parser.HeadReader>} parses the head of a request.  For the
first of several requests with the same meaning, the server calls a handler of the Klein
app, and remembers the meaning as a L{Plan<pexservice.server.plans.Plan>}.  The
L{RequestChecker<pexservice.web.operations.RequestChecker>} checks the request.  The
connection starts the request's operation on the cursor.  The committer calls the connection
when the outcome of the operation is durable.

Most requests need neither the parser nor a handler, because they have the same bytes as an
earlier request, or differ from it in a few neighbouring lines only.  In the second case, a
L{Template<pexservice.server.plans.Template>} recognizes the request by the bytes around
these lines.  For example::

    prefix          POST /next HTTP/1.1
                    Host: localhost:8081
                    User-Agent: python-requests/2.32.3
                    Accept: application/json
    varying lines   Idempotency-Key: 8e03978e-40d5-43e8-bc93-6894a57f9324
                    X-Request-ID: 4f6dc1e2
    suffix          Content-Type: application/json
                    Content-Length: 2

                    {}

The prefix and the suffix are compared as a whole.  The service reads one of the varying
lines, the idempotency key, and ignores the other one.
"""

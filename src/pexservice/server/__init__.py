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

Most requests are not parsed: L{pexservice.server.recognition} knows their bytes.
"""

"""
The HTTP server of one worker: connections, the parser, and responses as bytes.

A request and its response take this path::

    bytes -> Connection -> HeadReader -> Plan -> RequestChecker -> committer
    committer -> Connection.respond(outcome, state) -> ResponseWriter -> bytes

  1. A L{Connection<pexservice.server.connection.Connection>}, an C{asyncio.Protocol}, gets
     the bytes.
  2. The L{HeadReader<pexservice.server.parser.HeadReader>} parses the head of the request.
  3. The L{Plan<pexservice.server.plans.Plan>} says which operation on the cursor the client
     asks for.  If there is no plan yet, a handler of the Klein app returns the operation.
  4. The L{RequestChecker<pexservice.web.operations.RequestChecker>} checks the request.
  5. The connection starts the operation.  When the operation has ended, the committer calls
     the connection.
  6. The L{ResponseWriter<pexservice.server.response_writer.ResponseWriter>} writes the
     response.

Most requests are not parsed: L{pexservice.server.recognition} finds them by their bytes.
"""

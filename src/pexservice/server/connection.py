"""
A connection, from its first byte to its last.

A connection handles one request after the other:

  1. Parsing: the connection buffers the input until a request is complete.  Then it looks
     for a L{plan<pexservice.server.plans>}: the operation that the handler returned for an
     earlier request of the same kind.  If there is a plan, access, key and preconditions
     are checked now, so that the result can be remembered with the request.
  2. Performing: the connection checks the client's rate and the C{Host}.  If there is a
     plan, it starts the operation, or refuses the request if the check of step 1 failed.
     If there is no plan, it calls the handler, which returns an operation or a response.
     Before it starts this operation, it checks access, key and preconditions.
  3. Responding: when the operation has ended, the committer calls L{Connection.respond} or
     L{Connection.fail}.  If the handler has returned a response, L{Connection.send} gets
     it.  These methods write the response.

There is a shortcut: the L{Recognizer<pexservice.server.recognition.Recognizer>} finds some
requests without parsing.  If it knows a request by its exact bytes, access, key and
preconditions are not checked again.  The rate and the C{Host} are checked again if there is
a rate limit, or if only some peers may send this C{Host}.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pexservice.commit.interface import Outcome, Waiter
from pexservice.core.cursor import State
from pexservice.server.limits import REQUEST_TIMEOUT_SECONDS, Phase, count_delivered
from pexservice.server.parser import (
    END_OF_HEAD,
    Head,
    RequestBody,
    find_head,
    read_refused_head,
)
from pexservice.server.plans import Plan, PreparedRequest
from pexservice.server.recognition import Recognizer
from pexservice.server.response_writer import (
    CONTINUE,
    ResponseFormat,
    write_piece,
    write_response,
)
from pexservice.server.server import Server
from pexservice.web import problems
from pexservice.web.clients import Peer
from pexservice.web.operations import Operation, Request, response_kind
from pexservice.web.preconditions import UNCONDITIONAL
from pexservice.web.problems import Problem, problem_of
from pexservice.web.representations import STATE
from pexservice.web.responses import Response, Stream

_log = Logger()

# Aliases for speed: reading a global takes a third of the time of reading Phase.IDLE.
_HANDSHAKE, _IDLE, _RECEIVING = Phase.HANDSHAKE, Phase.IDLE, Phase.RECEIVING
_WAITING_TO_PARSE, _PERFORMING = Phase.WAITING_TO_PARSE, Phase.PERFORMING
_CLOSING, _CLOSED = Phase.CLOSING, Phase.CLOSED
_READ, _REPLAYED = Outcome.READ, Outcome.REPLAYED
_OK = HTTPStatus.OK

#: How long input is read and dropped after a refused request.  If a connection is
#: closed with unread input, the kernel resets it, and the client may lose the response.
LINGER_SECONDS = 2

#: A request that is refused with one of these statuses counts against the rate limit of its
#: client.
_CLIENT_FAULTS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.REQUEST_URI_TOO_LONG,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.METHOD_NOT_ALLOWED,
)


class Connection(asyncio.Protocol):
    """
    One connection.

    The connection is the L{Waiter<pexservice.commit.interface.Waiter>} of its current
    request: the committer calls L{respond} or L{fail}.

    @ivar peer: the other end of the socket: a client or a proxy.
    @ivar recognizer: finds a request by its bytes without parsing, or by its plan without
        calling a handler.
    """

    transport: asyncio.Transport

    def __init__(self, server: Server, peer: Peer) -> None:
        self._server = server
        self.peer = peer
        self.recognizer = Recognizer(server.request_cache)
        # The attributes of LimitedConnection in server.limits.  The listener may set the
        # phase HANDSHAKE or REFUSED before it calls connection_made().
        self.phase = _IDLE
        self.has_responded = False
        self.last_active = server.seconds()
        self.receiving_since: float | None = None
        self.stalled_since: float | None = None
        # The input that was not parsed yet, and how many of its bytes were searched for the
        # end of a head, without success.
        self._buffer = bytearray()
        self._searched_bytes = 0
        # The bytes of this call of data_received(), if the buffer was empty before;
        # otherwise b"".  The recognizer gets them, because it remembers only a request that
        # arrives in one piece.
        self._single_chunk = b""
        # The head of a request whose body is arriving, and the body.
        self._incomplete_request: tuple[Head, RequestBody] | None = None
        # The request that is being performed, and the Deferred of its handler, if any.
        self._request: PreparedRequest | None = None
        self._handler_result: Deferred[Response] | None = None
        # The stream that sends the response, if any, and how many bytes it has sent.
        self._stream: Stream | None = None
        self._stream_length = 0
        # Whether the transport reads, and whether the client has closed its half.
        self._is_reading = True
        self._half_closed = False
        # See LINGER_SECONDS.
        self._linger_timer: IDelayedCall | None = None

    # Calls of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Use C{transport} from now on.  Unlike in asyncio, this may be called twice.

        With TLS, this method is called once, after the TLS handshake.  Without TLS, it is
        called with a cheap L{OneRequestTransport
        <pexservice.server.listener.OneRequestTransport>}.  If the connection needs more,
        for example a second read, a transport of the event loop replaces this transport,
        and this method is called again.
        """
        self.transport = transport  # type: ignore[assignment]
        self._write = self.transport.write
        if self.phase is _HANDSHAKE:
            self.phase, self.receiving_since = _IDLE, None
            self.last_active = self._server.seconds()
        elif self.phase is Phase.REFUSED:
            self.close_with(problems.too_many_connections(self._server.connections.limit))

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase is _IDLE:
            request = self.recognizer.find(data)
            if request is not None:
                self.perform(request)
                return
            self.phase = _RECEIVING
            self._buffer += data
            self._single_chunk = data
            self._parse_input()
            self._single_chunk = b""
        elif phase is _RECEIVING:
            self._buffer += data
            self._parse_input()
        elif phase is _PERFORMING or phase is _WAITING_TO_PARSE:
            # This input must wait.  Reading pauses, so that an endless pipeline of requests
            # takes little memory.
            self._buffer += data
            self._pause_reading()
        # In other phases, the connection is closing, and its input is dropped.

    def eof_received(self) -> bool:
        """
        Handle a half-close: the client sends no more bytes, but may wait for responses.

        @return: whether the transport stays open, so that it can send responses.
        """
        self._half_closed = True
        if self._stream is not None:
            # A client that half-closes the connection during a stream has usually left.
            self._stream.end()
        elif self.phase not in (_PERFORMING, _WAITING_TO_PARSE):
            self.close()
        return self.transport.can_write_eof()

    def pause_writing(self) -> None:
        """
        Stop reading requests, because the client does not take the responses.
        """
        self.stalled_since = self._server.seconds()
        if self.phase is not _CLOSING:
            self._pause_reading()
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        """
        Read again, because the client has taken the responses.
        """
        # The client takes bytes, so the stall timeout ends.  But a closing connection must
        # end even if the client stops again, so its stall timeout only begins again.
        is_closing = self.phase is _CLOSING
        self.stalled_since = self._server.seconds() if is_closing else None
        if self._stream is not None:
            self._stream.resume()
        elif self.phase is _WAITING_TO_PARSE:
            self._server.call_soon(self._parse_next)
        elif self.phase is not _PERFORMING or not self._buffer:
            # A request in the buffer must be parsed before more is read.
            self._resume_reading()

    def connection_lost(self, error: BaseException | None) -> None:
        self.phase = _CLOSED
        self._server.connections.remove(self)
        self._request = None
        self._buffer.clear()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.end()
        if self._handler_result is not None:
            self._handler_result.cancel()
        if self._linger_timer is not None and self._linger_timer.active():
            self._linger_timer.cancel()

    # Parsing.

    def _parse_input(self) -> None:
        """
        Parse until a request is complete, more input is needed, or the budget is spent.
        """
        budget = self._server.parsing_budget
        can_continue = True
        while can_continue and self.phase is _RECEIVING:
            begin, incomplete = budget.seconds(), self._incomplete_request
            try:
                if incomplete is None:
                    can_continue = self._parse_head()
                else:
                    can_continue = self._parse_body(*incomplete)
            except Problem as problem:
                self.close_with(problem)
            except Exception:  # noqa: BLE001 it is logged, and the connection ends
                self._abort_after_bug()
            budget.spend(budget.seconds() - begin)
            # The budget is checked only after a part was parsed.  Otherwise a connection
            # could wait again and again, without progress.
            if can_continue and self.phase is _RECEIVING and budget.must_wait:
                self.phase = _WAITING_TO_PARSE
                budget.wait(self._parse_next)
        if self.phase is _RECEIVING:
            self._wait_for_input()

    def _parse_head(self) -> bool:
        """
        Parse a head, if it is complete.  If the request has no body, perform the request.

        @return: whether the head was complete.
        @raise Problem: the input is refused.
        """
        buffer = self._buffer
        indices = find_head(buffer, self._searched_bytes)
        if indices is None:
            self._searched_bytes = len(buffer)
            return False
        begin, end = indices
        head = self._server.reader.read(bytes(buffer[begin:end]))
        del buffer[: end + len(END_OF_HEAD)]
        self._searched_bytes = 0
        if head.body_length == 0:
            self._perform_parsed_request(head)
            return True
        self._incomplete_request = head, RequestBody(head.body_length)
        if head.expects_continue and not buffer:
            self._write(CONTINUE)
        return True

    def _parse_body(self, head: Head, body: RequestBody) -> bool:
        """
        Parse a part of the body.  If the body is then complete, perform its request.

        @return: whether the next part can be parsed now.  If not, more input is needed.
        @raise Problem: the input is refused.
        """
        size = len(self._buffer)
        body.skip(self._buffer)
        if body.complete:
            self._incomplete_request = None
            self._perform_parsed_request(head)
            return True
        return len(self._buffer) < size

    def _wait_for_input(self) -> None:
        if self._half_closed:
            self.close()
            return
        if self.receiving_since is None:
            self.receiving_since = self._server.seconds()
        self._resume_reading_unless_stalled()

    def _parse_next(self) -> None:
        """
        Parse the input that had to wait, unless the client takes no responses now.
        """
        if self.phase is _WAITING_TO_PARSE and self.stalled_since is None:
            self.phase = _RECEIVING
            self._parse_input()

    # Performing.

    def _perform_parsed_request(self, head: Head) -> None:
        """
        Perform a request whose head and body have been parsed.
        """
        self.receiving_since = None
        if self._buffer:
            # The chunk has more bytes than those of this request.
            self._single_chunk = b""
        elif not self._is_reading:
            # Reading was paused because input had arrived during a request.
            self._resume_reading_unless_stalled()
        request = self.recognizer.find_by_plan(head, self._single_chunk)
        self.perform(self._new_request(head) if request is None else request)

    def perform(self, request: PreparedRequest) -> None:
        self.phase = _PERFORMING
        self._request = request
        try:
            if request.must_check_rate_and_host:
                self._server.checker.check_rate_and_host(request.headers, self.peer)
            request.start(self)
        except Exception as error:  # noqa: BLE001 the client gets a response to any error
            self.fail(error)

    def _new_request(self, head: Head) -> PreparedRequest:
        """
        Return a request that calls the handler when it is started.
        """
        line = head.request_line
        response_format = self._server.response_format(line, head.headers)
        call = partial(self._call_handler, head, response_format)
        return PreparedRequest(
            response_format, head.headers, line.logged_line, call, is_new=True
        )

    def _call_handler(self, head: Head, response_format: ResponseFormat, _: Waiter) -> None:
        """
        Call the handler of the current request, which has no plan.

        If the handler returns an operation, remember the operation as a plan, and start it.
        """
        server, line, headers = self._server, head.request_line, head.headers
        result = server.call_handler(
            Request(line.method, line.target, line.path, headers, self.peer)
        )
        if isinstance(result, Operation):
            plan = Plan(result, response_format, server.checker)
            server.request_cache.remember_plan(head, plan)
            request = plan.prepare(headers, line.logged_line)
            self._request = evolve(request, is_new=True)
            request.start(self)
        elif isinstance(result, Deferred):
            self._handler_result = result
            result.addCallbacks(self.send, lambda failure: self.fail(failure.value))
        else:
            self.send(result)

    # Responses.  respond() ends a read or a step.  send() ends a request whose handler
    # returned a response.  fail() ends a request of either kind.  If the response of send()
    # has a stream, the stream calls send_piece() several times, and then end_stream().

    def respond(self, outcome: Outcome, state: State) -> None:
        """
        Send the response that shows C{state}; the committer calls this.

        See L{Waiter.respond<pexservice.commit.interface.Waiter.respond>}.
        """
        request = self._request
        if request is None:
            # The client is gone.
            return
        try:
            server, preconditions = self._server, request.preconditions
            # Most responses are of the kind STATE.  This check saves a call for them.
            if preconditions is UNCONDITIONAL and outcome is not _REPLAYED:
                kind = STATE
            else:
                kind = response_kind(outcome, state, request.method, preconditions)
            data = server.writer.write_state_response(
                request.response_format, kind, state, is_read=outcome is _READ
            )
            self._write(data)
            length = 0 if server.log is None else _body_length(data)
            self._end_request(request, kind.status, length)
        except Exception:  # noqa: BLE001 it is logged, and the connection ends
            self._abort_after_bug()

    def fail(self, error: Exception) -> None:
        request = self._request
        if request is None:
            return
        try:
            representation = request.response_format.preferences.problem
            self.send(problem_of(error).response(representation))
        except Exception:  # noqa: BLE001 it is logged, and the connection ends
            self._abort_after_bug()

    def send(self, response: Response) -> None:
        request = self._request
        if request is None:
            return
        try:
            if response.stream is not None:
                # The connection is closed after every stream: in HTTP/1.0, nothing else
                # shows where a stream ends.
                response_format = evolve(
                    request.response_format,
                    connection_header=b"close",
                    closes_connection=True,
                )
                request = self._request = evolve(request, response_format=response_format)
            data = write_response(request.response_format, response)
            self._write(data)
            if response.stream is None:
                self._end_request(request, response.status, _body_length(data))
            else:
                self._stream = response.stream
                response.stream.begin(self)
        except Exception:  # noqa: BLE001 it is logged, and the connection ends
            self._abort_after_bug()

    def send_piece(self, data: bytes) -> None:
        request = self._request
        if self._stream is not None and request is not None:
            self._stream_length += len(data)
            self._write(write_piece(request.response_format, data))

    def end_stream(self) -> None:
        request, stream = self._request, self._stream
        if stream is not None and request is not None:
            self._stream = None
            self._write(write_piece(request.response_format, b""))
            self._end_request(request, _OK, self._stream_length)

    def _end_request(self, request: PreparedRequest, status: int, length: int) -> None:
        """
        Count and log the response to C{request}; close the connection, or continue.

        @param length: the length of the body that was sent.
        """
        response_format, server = request.response_format, self._server
        if status == _OK:
            response_format.tally.ok += 1
        else:
            response_format.tally.others[status] += 1
        if server.log is not None:
            server.log_response(
                self.peer, request.headers, request.logged_line, status, length
            )
        self._request = None
        if request.is_new:
            self._handler_result = None
            server.counters.without_plan += 1
        self.has_responded = True
        if response_format.closes_connection:
            self.close()
        elif self._buffer:
            # The next request is parsed in the next iteration of the event loop, so that a
            # long pipeline does not delay other connections.
            self.phase = _WAITING_TO_PARSE
            server.call_soon(self._parse_next)
        else:
            self._become_idle()

    def _become_idle(self) -> None:
        server = self._server
        self.phase = _IDLE
        self.last_active = server.seconds()
        if self._half_closed or server.connections.closes_idle:
            self.close()
        elif not self._is_reading:
            self._resume_reading_unless_stalled()

    def _abort_after_bug(self) -> None:
        """
        Log a bug, and close the connection.

        A part of a response may have been sent before, so no error response is sent.
        """
        _log.failure("a request failed")
        self._request = None
        self.abort()

    def close_with(self, problem: Problem) -> None:
        """
        Send C{problem} as the last response of this connection.

        The connection does not know where the next request begins, so it drops all further
        input.
        """
        if self.phase in (_CLOSING, _CLOSED):
            return
        server, incomplete = self._server, self._incomplete_request
        if incomplete is not None:
            head, _ = incomplete
            method, headers = head.request_line.method, head.headers
            logged_line = head.request_line.logged_line
        else:
            method, logged_line, headers = read_refused_head(bytes(self._buffer))
        if problem.status in _CLIENT_FAULTS:
            try:
                server.checker.check_rate(headers, self.peer)
            except Problem as above_limit:
                problem = above_limit
        response_format = server.refusal_format(method, headers)
        representation = response_format.preferences.problem
        data = write_response(response_format, problem.response(representation))
        self.phase, self.receiving_since = _CLOSING, None
        self._buffer.clear()
        self._incomplete_request = None
        self._write(data)
        server.counters.without_plan += 1
        response_format.tally.others[problem.status] += 1
        length = _body_length(data)
        server.log_response(self.peer, headers, logged_line, problem.status, length)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._resume_reading()
            self._linger_timer = server.call_later(LINGER_SECONDS, self.abort)
        else:
            self.close()

    def _pause_reading(self) -> None:
        if self._is_reading and not self.transport.is_closing():
            self._is_reading = False
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._is_reading and not self.transport.is_closing():
            self._is_reading = True
            self.transport.resume_reading()

    def _resume_reading_unless_stalled(self) -> None:
        if self.stalled_since is None:
            self._resume_reading()

    # The methods that server.limits calls.

    def delivered_count(self) -> int | None:
        return count_delivered(self.transport.get_extra_info("socket"))

    def time_out(self) -> None:
        self.close_with(problems.too_slow(REQUEST_TIMEOUT_SECONDS))

    def close(self) -> None:
        self.phase = _CLOSING
        # Without a timeout, a client that takes no bytes would keep the closing connection
        # open.  So the stall timeout begins now.
        if self.stalled_since is None:
            self.stalled_since = self._server.seconds()
        self.transport.close()

    def abort(self) -> None:
        # The event loop calls connection_lost in a later iteration.  Until then, no input
        # may be parsed.
        self.phase = _CLOSING
        self.transport.abort()


def _body_length(response: bytes) -> int:
    return len(response) - response.index(END_OF_HEAD) - len(END_OF_HEAD)

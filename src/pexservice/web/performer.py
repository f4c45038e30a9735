"""
The performer, which refuses a request or performs its operation.

This is the one place that decides in which order the reasons to refuse a request are
checked, once the request was understood, and what is done when there is no reason.
Requests that are malformed, late or too many at once were refused before, in
L{pexservice.server}.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import cast

from attrs import define
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.python.failure import Failure

from pexservice.commit.interface import ICommitter
from pexservice.commit.requests import KeyReused, Outcome, Step
from pexservice.core.cursor import State
from pexservice.stores.interface import NotTaken, OutcomeUnknown
from pexservice.web import problems
from pexservice.web.access import Access
from pexservice.web.clients import Clients
from pexservice.web.dns_rebinding import HostPolicy
from pexservice.web.operations import (
    Act,
    Answer,
    Call,
    ISender,
    Operation,
    Work,
    kind_of_read,
    log_bug,
)
from pexservice.web.parameters import (
    FORWARDED_FOR,
    HOST,
    MEANINGS,
    ORIGIN,
    REQUEST_METHOD,
    Arguments,
    conditions,
    key_of,
)
from pexservice.web.preconditions import UNCONDITIONAL, Conditions
from pexservice.web.problems import Problem, problem_of
from pexservice.web.replies import Header, Reply
from pexservice.web.representations import NOT_MODIFIED
from pexservice.web.throttle import RateLimit


class Performer:
    """
    The performer of one worker's operations.

    @ivar clients: finds the client that a request comes from.
    """

    def __init__(
        self,
        committer: ICommitter,
        access: Access,
        clients: Clients,
        *,
        hosts: HostPolicy,
        limit: RateLimit | None = None,
    ) -> None:
        """
        Make the performer of operations on C{committer}'s cursor.

        @param hosts: decides which C{Host} is answered.
        """
        self.clients = clients
        self._committer = committer
        self._access = access
        self._hosts = hosts
        self._limit = limit

    def browser_headers(self, origins: Sequence[bytes]) -> tuple[Header, ...]:
        """
        Return the headers that any answer to a request has for browsers.

        @param origins: the values of its C{Origin}.
        """
        return self._access.pages.answer_headers(origins)

    def meanings(self) -> Mapping[bytes, Callable[[bytes], Hashable]]:
        """
        Return the headers that decide the operation, each with its function.

        The function returns the meaning of a value of the header.
        """
        others = self.browser_headers(())

        def origin(value: bytes) -> bytes:
            return b"" if self.browser_headers([value]) is others else value

        return {**MEANINGS, ORIGIN: origin}

    def preflight(self, arguments: Arguments, allow: bytes) -> tuple[Header, ...]:
        """
        Return the headers for browsers that only the answer to an C{OPTIONS} has.

        @param allow: the methods that the path takes.
        """
        return self._access.pages.preflight_headers(
            arguments.get(ORIGIN, ()), allow, asks=REQUEST_METHOD in arguments
        )

    def perform(
        self,
        operation: Operation,
        arguments: Arguments,
        sender: ISender,
        answer: Callable[[Answer], None],
        known: Call | None = None,
    ) -> Answer | None:
        """
        Perform a read, a step or a refusal.

        @param answer: called with the answer if this method does not return it.
        @param known: the call that L{bind} has made of the same arguments before.
        @return: the answer, or C{None} if C{answer} was or will be called with it.
        """
        try:
            self._admit(arguments, sender, known)
            act = self._act(operation, arguments) if known is None else known.act
        except Problem as problem:
            return problem
        return act(answer)

    def work(
        self,
        operation: Operation,
        work: Work,
        arguments: Arguments,
        sender: ISender,
    ) -> Deferred[Reply | None]:
        """
        Perform C{operation} by doing its C{work}.

        @return: fires with the answer, or with C{None} if C{work} has sent it.  The
            Deferred may be cancelled.
        """

        def begin() -> Reply | Deferred[Reply] | Deferred[None]:
            self._admit(arguments, sender, None)
            self._check(operation, arguments)
            return work(arguments)

        def failed(failure: Failure) -> Reply:
            return problem_of(_error(failure)).reply(operation.preferences.problem)

        done = maybeDeferred(cast(Callable[[], Deferred[Reply | None]], begin))
        return done.addErrback(failed)

    def _admit(self, arguments: Arguments, sender: ISender, known: Call | None) -> None:
        """
        Check the client's rate, and the C{Host} of the request.

        @raise Problem: 429 or 421.
        """
        if self._limit is not None:
            problem = self.charge(sender, arguments.get(FORWARDED_FOR))
            if problem is not None:
                raise problem
        if known is not None and known.any_way:
            return
        hosts, host = self._hosts, arguments.get(HOST, (None,))[0]
        if not hosts.answers_to(host) and sender.caller.checks_host:
            raise hosts.refusal(host)

    def bind(self, operation: Operation, arguments: Arguments) -> Call | None:
        """
        Return the call that does C{operation}, or C{None} if that is refused.

        Everything but the client's rate and the C{Host} is checked here.
        """
        any_way = self._hosts.answers_to(arguments.get(HOST, (None,))[0])
        any_time = any_way and self._limit is None
        try:
            return Call(self._act(operation, arguments), any_way, any_time)
        except Problem:
            # It is refused again each time that it is asked for.
            return None

    def _act(self, operation: Operation, arguments: Arguments) -> Act:
        """
        Return the function that does C{operation}.

        @raise Problem: the first reason to refuse it: as L{_check}, then 400 for a key or
            a condition that is malformed.
        """
        self._check(operation, arguments)
        transition = operation.transition
        key = None if transition is None else key_of(arguments)
        found = conditions(arguments)
        if transition is None:
            return _reading(self._committer, found)
        if found is UNCONDITIONAL:
            return _stepping(self._committer, Step(transition, key))
        step = Step(transition, key, found.met_by)
        return _stepping_if(self._committer, step, found, operation.method)

    def _check(self, operation: Operation, arguments: Arguments) -> None:
        """
        Check the target, where the request comes from, and the token.

        @raise Problem: 404 or 405, then 403, then 401.
        """
        access, transition = self._access, operation.transition
        problem = (
            operation.refusal
            or (operation.deed and access.check_page(operation.deed, arguments))
            or (problems.not_on_purpose() if operation.ahead else None)
            or (transition and access.check_token(arguments))
        )
        if isinstance(problem, Problem):
            raise problem

    def charge(self, sender: ISender, forwarded: Sequence[bytes] | None) -> Problem | None:
        """
        Count a request of a client, and return 429 if it sends too many.
        """
        limit = self._limit
        if limit is None or limit.take(self.clients.host(sender.caller, forwarded)):
            return None
        return problems.too_many_requests(limit.rate)


@define(eq=False)
class _Waiter:
    """
    The waiter of a request whose response is the committer's outcome.
    """

    _answer: Callable[[Answer], None]

    def respond(self, outcome: Outcome, state: State, /) -> None:
        self._answer((outcome, state))

    def fail(self, error: Exception, /) -> None:
        self._answer(error)


@define(eq=False)
class _ConditionalReader(_Waiter):
    _conditions: Conditions

    def respond(self, outcome: Outcome, state: State, /) -> None:
        self._answer((kind_of_read(self._conditions, state), state))


@define(eq=False)
class _ConditionalGetter(_Waiter):
    """
    The waiter of a step by GET.

    If C{If-None-Match} is not met, the response is 304, as RFC 9110 13.1.2 asks.
    """

    _conditions: Conditions

    def respond(self, outcome: Outcome, state: State, /) -> None:
        if outcome is Outcome.PRECONDITION_FAILED and self._conditions.match(state):
            self._answer((NOT_MODIFIED, state))
        else:
            self._answer((outcome, state))


def _reading(committer: ICommitter, conditions: Conditions) -> Act:
    """
    Return the function that reads the cursor.
    """
    if conditions is UNCONDITIONAL:
        return lambda answer: committer.read(_Waiter(answer))
    return lambda answer: committer.read(_ConditionalReader(answer, conditions))


def _stepping(committer: ICommitter, step: Step) -> Act:
    """
    Return the function that makes a step.
    """
    return lambda answer: committer.step(step, _Waiter(answer))


def _stepping_if(
    committer: ICommitter, step: Step, conditions: Conditions, method: bytes
) -> Act:
    """
    Return the function that makes a step that has C{conditions}.
    """
    if method != b"GET":
        return _stepping(committer, step)
    return lambda answer: committer.step(step, _ConditionalGetter(answer, conditions))


def _error(failure: Failure) -> Exception:
    """
    Return the error in C{failure}, and log it if it is a bug.
    """
    if not failure.check(Problem, KeyReused, NotTaken, OutcomeUnknown, CancelledError):
        log_bug(failure)
    return cast(Exception, failure.value)

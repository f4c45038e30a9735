"""
Recognition: the server finds a request by its bytes, and need not parse it.

This only saves time: the L{plan<pexservice.server.plans.Plan>} and the response are as they
would be after parsing.  A request is recognized in two cases:

  - Its bytes are remembered, because the same bytes arrived before.
  - Its bytes match a L{template<pexservice.server.templates>}: they differ from the bytes
    of an earlier request only in a few neighbouring header lines.

The first request of a kind is always parsed.  If the
L{parser<pexservice.server.parser.HeadReader>} finds all lines of a later request in its
caches, a hash of the bytes is remembered.  When the same bytes come again, the request is
remembered by its bytes, with the result of its checks.  Some requests that match a template
are remembered in the same way; see
L{Template.remembers_matches<pexservice.server.templates.Template>}.

The memory for bytes and templates is bounded, whatever clients send.  An idempotency key is
never remembered here, and a secret only in L{Recognizer.authorized_request}.
"""

from __future__ import annotations

from hmac import compare_digest

from pexservice.server.generational_cache import GenerationalCache
from pexservice.server.parser import Head, PlanKey
from pexservice.server.plans import MAX_PLANS, Plan, PreparedRequest
from pexservice.server.templates import Template, make_template, varying_names

#: How many requests one of the two generations of L{RequestCache.by_bytes} has.  The bytes
#: of both take at most 8 MiB.
MAX_CACHED_REQUESTS = 1024

#: A larger request is not recognized.
MAX_RECOGNIZED_BYTES = 4096

#: How many templates a connection remembers.
MAX_TEMPLATES = 2

#: How many templates are made in a second, for all connections together.  Making a template
#: takes as long as parsing several heads.
MAX_NEW_TEMPLATES_PER_SECOND = 256


class RequestCache:
    """
    The plans and the requests that all connections of one worker remember together.

    A client may open a connection for each request.  So the cache also keeps templates and
    names for new connections.

    @ivar plans: the plans by their keys.
    @ivar by_bytes: the requests by their exact bytes.
    @ivar latest_templates: the latest templates of all connections.
    @ivar latest_names: the L{varying names<varying_names>} of the latest parsed request of
        any connection.
    @ivar new_templates: how many templates were made in this second.
    @ivar is_stopped: whether nothing is remembered any more.
    """

    def __init__(self) -> None:
        self.plans: dict[PlanKey, Plan] = {}
        self.by_bytes = GenerationalCache[bytes, PreparedRequest](MAX_CACHED_REQUESTS)
        # The hashes of requests that arrived once.  At the second time, by_bytes gets the
        # request.
        self._seen_once = GenerationalCache[int, bool](MAX_CACHED_REQUESTS)
        self.latest_templates: tuple[Template, ...] = ()
        self.latest_names: tuple[bytes, ...] = ()
        self.new_templates = 0
        self.is_stopped = False

    def tick(self) -> None:
        """
        Begin a second, in which L{MAX_NEW_TEMPLATES_PER_SECOND} templates may be made.
        """
        self.new_templates = 0

    def stop(self) -> None:
        """
        Forget all plans and requests, and remember no more.

        When the worker stops, every response must have C{Connection: close}.  The responses
        of remembered plans would not have this header.
        """
        self.is_stopped = True
        self.plans.clear()
        self.by_bytes.clear()

    def remember_plan(self, head: Head, plan: Plan) -> None:
        if len(self.plans) < MAX_PLANS and not self.is_stopped:
            self.plans[head.plan_key] = plan

    def remember_if_repeated(self, data: bytes, request: PreparedRequest) -> None:
        """
        Remember C{request} at the second call with C{data}.
        """
        if self._seen_once.get(hash(data)):
            self.by_bytes.put(data, request)
        else:
            self._seen_once.put(hash(data), True)  # noqa: FBT003 only the key counts


class Recognizer:
    """
    Finds one connection's requests by their bytes or by their plans.

    @ivar templates: the templates of the connection's requests, the latest one first.
    @ivar authorized_request: a pair, for the latest request that has a token and no
        idempotency key: its exact bytes, and the request.  A client sends the same token
        with every step, and the check of the token takes a quarter of the CPU time of such
        a step.
    """

    # Slots save memory: there may be 10,000 idle connections.
    __slots__ = ("_cache", "_latest_names", "authorized_request", "templates")

    def __init__(self, cache: RequestCache) -> None:
        self._cache = cache
        self.templates: tuple[Template, ...] = ()
        # The varying names of the latest parsed request.
        self._latest_names: tuple[bytes, ...] = ()
        self.authorized_request: tuple[bytes, PreparedRequest] | None = None

    def find(self, data: bytes) -> PreparedRequest | None:
        """
        Return the request whose bytes are C{data}; C{None} if they are not recognized.

        A connection without templates uses the latest templates of the worker.
        """
        cache = self._cache
        # Most requests have the same bytes as an earlier one.
        request = cache.by_bytes.recent.get(data)
        if request is not None:
            return request
        if cache.is_stopped or len(data) > MAX_RECOGNIZED_BYTES:
            return None
        authorized = self.authorized_request
        # The duration of compare_digest tells a client nothing about the token.
        if authorized is not None and compare_digest(authorized[0], data):
            return authorized[1]
        templates = self.templates
        for template in templates or cache.latest_templates:
            request = template.match(data)
            if request is not None:
                if not templates or templates[0] is not template:
                    self.templates = _put_first(template, templates)
                if template.remembers_matches:
                    cache.remember_if_repeated(data, request)
                elif template.uses_only_token:
                    self.authorized_request = data, request
                return request
        # The bytes may be in the old generation, which by_bytes.recent does not have.
        return cache.by_bytes.get(data)

    def find_by_plan(self, head: Head, chunk: bytes) -> PreparedRequest | None:
        """
        Return the request with C{head}; C{None} if there is no plan for it.

        If C{chunk} is not empty, prepare to recognize later requests that are equal or
        similar.

        @param chunk: the bytes of the request, if they arrived in one piece; otherwise
            C{b""}.
        """
        cache = self._cache
        plan = cache.plans.get(head.plan_key)
        if plan is None:
            return None
        request = plan.prepare(head.headers, head.request_line.logged_line)
        # If an empty line comes before the head, the bytes are not remembered.
        if chunk.startswith(head.lines[0]) and len(chunk) <= MAX_RECOGNIZED_BYTES:
            if head.uncached:
                self._make_template(chunk, head, plan)
            else:
                cache.remember_if_repeated(chunk, request)
        return request

    def _make_template(self, data: bytes, head: Head, plan: Plan) -> None:
        """
        Make a template, if the uncached lines have the same header names as last time.
        """
        cache, names = self._cache, varying_names(head)
        if not names:
            return
        # A new connection uses the names of another connection's last request.
        previous_names = self._latest_names or cache.latest_names
        self._latest_names = cache.latest_names = names
        if names != previous_names or cache.new_templates >= MAX_NEW_TEMPLATES_PER_SECOND:
            return
        template = make_template(data, head, names, plan)
        if template is not None:
            cache.new_templates += 1
            cache.latest_templates = _put_first(template, cache.latest_templates)
            self.templates = _put_first(template, self.templates)


def _put_first(template: Template, templates: tuple[Template, ...]) -> tuple[Template, ...]:
    others = [other for other in templates if other is not template]
    return (template, *others[: MAX_TEMPLATES - 1])

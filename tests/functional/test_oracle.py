"""
The last release as the oracle.

The service gives the same responses, except for the differences in
L{tests.support.wanted}.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from attrs import Factory, define

from tests.support.command_lines import COMMANDS, command_lines, help_of
from tests.support.daemon import PATIENCE, Daemon
from tests.support.differences import Answer, Comparison, Outcome, compare
from tests.support.forms import amount
from tests.support.installation import release_installed
from tests.support.oracle import Setup, Side, align
from tests.support.setups import setups
from tests.support.wanted import WANTED

_Case = TypeVar("_Case")

#: In the short form, so many cases are asked, and a part of what is more.
MANY = 50

GROUPS = (
    *(setup.name for setup in setups()),
    *("access log", "help", "metrics", "openapi", "start"),
)


@define
class Answers:
    """
    The answers of both versions, by case.

    @ivar old: the answers of the last release, by case; the part before the slash is its
        group.
    @ivar new: the same of the version under test.
    @ivar asked: what was sent or run, by case.
    """

    old: dict[str, Outcome] = Factory(dict)
    new: dict[str, Outcome] = Factory(dict)
    asked: dict[str, object] = Factory(dict)

    def compared(self, group: str) -> Comparison:
        """
        Return the differences in one group.
        """
        old, new = (
            {
                name: outcome
                for name, outcome in side.items()
                if name.startswith(f"{group}/")
            }
            for side in (self.old, self.new)
        )
        assert old
        assert new
        return compare(old, new, WANTED, self.asked)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """
    Provide all answers of both versions.
    """
    path = tmp_path_factory.mktemp("oracle")
    oracle = release_installed(path / "release").python
    answers = Answers()
    with ThreadPoolExecutor(3) as threads:
        # Those that take longest begin first.
        jobs = [
            threads.submit(converse, setup, answers, path / setup.name, oracle)
            for setup in setups()
        ]
        for number, (name, command, line) in enumerate(sample([*command_lines()])):
            answers.asked[name] = (command, *line.options)
            for side, outcomes, python in (
                ("old", answers.old, oracle),
                ("new", answers.new, sys.executable),
            ):
                place = path / f"{number}-{side}"
                converse_once = partial(line.run, place, command, python)
                jobs.append(threads.submit(keep, outcomes, name, converse_once))
        for job in jobs:
            job.result()
    for command in COMMANDS:
        answers.old |= help_of(path, command, oracle)
        answers.new |= help_of(path, command, sys.executable)
    return answers


def sample(cases: Sequence[_Case]) -> Sequence[_Case]:
    """
    Return every 17th of many cases; in the long form, all of them.

    No loop that makes cases has a multiple of 17 turns, so none of its values is left out.
    """
    return cases[:: amount(short=17, long=1) if len(cases) > MANY else 1]


def keep(side: dict[str, Outcome], name: str, make: partial[Outcome]) -> None:
    """
    Put the outcome of C{make} in C{side} under C{name}.
    """
    side[name] = make()


# Conversations.


def connect(setup: Setup, daemon: Daemon) -> socket.socket:
    """
    Return a connection of the kind that C{setup} has.
    """
    if "unix:socket" in setup.options:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(str(daemon.path / "socket"))
        return connection
    connection = socket.create_connection(("127.0.0.1", daemon.port), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if "--tls-key" in setup.options:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(connection)
    return connection


def converse(setup: Setup, answers: Answers, path: Path, oracle: str) -> None:
    """
    Start both versions by C{setup}, and ask them all of its cases.
    """
    with ExitStack() as stack:
        sides = []
        for name, python in (("old", oracle), ("new", sys.executable)):
            place = path / name
            place.mkdir(parents=True)
            setup.prepare(place)
            daemon = Daemon(place, *setup.options, command=setup.command, python=python)
            stack.enter_context(daemon)
            side = Side(daemon, setup, partial(connect, setup))
            sides.append(stack.enter_context(side))
        old, new = sides
        for case in sample(setup.cases):
            name = f"{setup.name}/{case.name}"
            assert name not in answers.asked, name
            align(old, new)
            answers.asked[name] = case.chunks
            answers.old[name], answers.new[name] = old.hold(case), new.hold(case)
        if setup.name == "supervised":
            for side, outcomes in ((old, answers.old), (new, answers.new)):
                outcomes.update(metrics(side.daemon))
                outcomes.update(openapi(side.daemon))
    if "--access-log" in setup.options:
        for side, outcomes in ((old, answers.old), (new, answers.new)):
            outcomes.update(access_log(side.daemon))


def metrics(daemon: Daemon) -> dict[str, Outcome]:
    """
    Return the metrics of a daemon.

    Each metric has its type and the names of its labels.  A metric that does not count
    requests also has the values of its labels.
    """
    _, text = daemon.ask("/metrics")
    outcomes: dict[str, Outcome] = {}
    labels: dict[str, set[str]] = {}
    kinds: dict[str, str] = {}
    for line in text.decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            kinds[name] = kind
        elif not line.startswith("#"):
            series = line.rpartition(" ")[0]
            name, _, inner = series.partition("{")
            if name.startswith("pexservice_http_requests"):
                inner = re.sub(r'"[^"]*"', "...", inner)
            labels.setdefault(name, set()).add(inner)
    for name, inners in labels.items():
        outcomes[f"metrics/{name}"] = (Answer("", body="\n".join(sorted(inners)).encode()),)
    for name, kind in kinds.items():
        outcomes[f"metrics/{name}: type"] = (Answer(kind),)
    return outcomes


def openapi(daemon: Daemon) -> dict[str, Outcome]:
    """
    Return each operation's parameters, statuses, headers and media types.
    """
    document = json.loads(daemon.ask("/openapi.json")[1])

    def resolved(value: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in value:
            part_of_document = document
            for part in value["$ref"].removeprefix("#/").split("/"):
                part_of_document = part_of_document[part]
            value = part_of_document
        return value

    outcomes: dict[str, Outcome] = {}
    for path, item in document["paths"].items():
        common = item.pop("parameters", [])
        for method, operation in item.items():
            if not isinstance(operation, dict):
                continue
            lines = [
                f"{parameter['in']} {parameter['name']}"
                for parameter in map(resolved, [*common, *operation.get("parameters", [])])
            ]
            for status, response in operation["responses"].items():
                for part in ("headers", "content"):
                    there = resolved(response).get(part, {})
                    lines += [f"{status} {part} {name_there}" for name_there in there]
            name = f"openapi/{method.upper()} {path}"
            outcomes[name] = (Answer("", body="\n".join(sorted(lines)).encode()),)
    return outcomes


def access_log(daemon: Daemon) -> dict[str, Outcome]:
    """
    Return each line of the access log and how often it is there.

    A line stands there without its time and without the length of the body.  That length is
    compared with the answers.
    """
    text = re.sub(r"\[[^]]*\]", "[TIME]", (daemon.path / "access.log").read_text("latin-1"))
    lines = Counter(re.sub(r'(" \d{3}) \d+ ', r"\1 LENGTH ", text).splitlines())
    # Requests that the oracle made for itself belong to no case.
    return {
        f"access log/{line}": (Answer(str(count)),)
        for line, count in lines.items()
        if not line.startswith('"10.')
    }


@pytest.mark.parametrize("group", GROUPS)
def test_responses_are_those_of_the_last_release_except_for_wanted_differences(
    answers: Answers, group: str
) -> None:
    comparison = answers.compared(group)
    if comparison.unwanted:
        count = sum(map(len, comparison.unwanted.values()))
        pytest.fail(
            f"{count} cases differ from the last release:\n\n{comparison}", pytrace=False
        )


@pytest.mark.long
def test_every_wanted_difference_is_still_seen(answers: Answers) -> None:
    seen = [wanted for group in GROUPS for wanted in answers.compared(group).seen]
    assert [wanted for wanted in WANTED if wanted not in seen] == []

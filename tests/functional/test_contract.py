"""
Run the contract tests of all stores, L{tests.unit.stores.test_contract}, on a real etcd.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import quote

import pytest

from pexservice.client.blocking import running_reactor
from pexservice.stores.etcd.address import parse
from pexservice.stores.etcd.http_gateway import HttpGateway
from pexservice.stores.etcd.store import EtcdStore
from tests.support.blocking_store import Blocking
from tests.support.etcd import Member, cluster
from tests.unit.stores.test_contract import *  # noqa: F403 its tests, and those to come
from tests.unit.stores.test_contract import KEPT, Maker

pytestmark = pytest.mark.needs("etcd")


@cache
def member() -> Member:
    """
    Return the etcd that all tests of this process share.
    """
    stack = ExitStack()
    atexit.register(stack.close)
    path = Path(stack.enter_context(TemporaryDirectory()))
    # No test kills this member, so it need not wait for the disk.
    (member,) = stack.enter_context(cluster(path, 1, "--unsafe-no-fsync"))
    return member


@pytest.fixture(name="make")
def make_on_etcd(tmp_path: Path) -> Maker:
    """
    Provide a factory of stores with a prefix that no other test uses.
    """
    address = parse(f"etcd:{member().url}?prefix={quote(str(tmp_path))}/")

    def make() -> Any:
        gateway = HttpGateway(address, cast(Any, running_reactor()))
        return Blocking(EtcdStore(gateway, address.prefix, journal=KEPT, kept_keys=KEPT))

    return make

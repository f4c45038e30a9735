"""
Ports that are held for a test.
"""

from __future__ import annotations

import errno
import socket

import pytest

from tests.support.ports import held_ports


def test_held_port_refuses_connections_until_one_server_listens() -> None:
    """
    One server after the other may listen on the port, and no two at once.
    """
    with held_ports(2) as ports:
        assert len(set(ports)) == 2
        address = ("127.0.0.1", ports[0])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for _ in range(2):
            with socket.create_server(address), socket.create_connection(address):
                with pytest.raises(OSError, match="in use") as refused:
                    socket.create_server(address)
                assert refused.value.errno == errno.EADDRINUSE


def test_request_for_a_free_port_never_gets_a_held_one() -> None:
    with held_ports(100) as held:
        given = set()
        for _ in range(100):
            with held_ports(100) as others:
                given |= set(others)
        assert not given & set(held)

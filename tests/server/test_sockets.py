from __future__ import annotations

import socket

import pytest

from tests.support.ports import free_port
from tusserver.server.sockets import host_of, listen


def test_every_address_of_a_name_is_listened_on_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", 0)) for last in (1, 2, 2)]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: two)
    listeners = listen("two.example", 0, 10)
    try:
        port = listeners[0].getsockname()[1]
        assert [host_of(listener) for listener in listeners] == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
    finally:
        for listener in listeners:
            listener.close()


def test_if_one_address_is_taken_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()  # not one that the system gives out: another test could be given it too, on 127.0.0.1
    with socket.create_server(("127.0.0.2", port)):
        two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (1, 2)]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: two)
        with pytest.raises(OSError, match="in use"):
            listen("two.example", port, 10)
        with socket.create_server(("127.0.0.1", port)):  # free again
            pass


def test_an_ipv6_address_stands_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listener = listen("::1", 0, 10)[0]
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        assert host_of(listener) == f"[::1]:{listener.getsockname()[1]}"

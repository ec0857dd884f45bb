"""Runs of datagrams on real sockets: none is lost for an error that was about an earlier one."""

from __future__ import annotations

import socket
import time

from engine.bridge.datagrams import Datagrams


def test_a_refusal_of_earlier_datagrams_costs_the_next_run_nothing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        address = there.getsockname()
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    plain.connect(address)
    ours = Datagrams(plain)
    try:
        assert ours.send([b"into the void"]) == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            there.bind(address)
            there.settimeout(10)
            time.sleep(0.05)  # the refusal waits in our socket now
            assert ours.send([b"one!", b"two!"]) == 0
            assert [there.recv(100), there.recv(100)] == [b"one!", b"two!"]
    finally:
        ours.close()

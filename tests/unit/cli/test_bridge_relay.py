"""`molehill bridge-relay` as a command: what it says, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from engine.bridge.frames import frame
from engine.cli.main import BAD_INPUT, FAILED, molehill

COMMAND = ["bridge-relay", "udp-over-tcp"]


def test_it_carries_says_where_and_ends_well_by_sigterm() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        target = f"127.0.0.1:{server.getsockname()[1]}"
        pid = os.getpid()
        here = f"127.{1 + (pid >> 16) % 250}.{pid >> 8 & 255}.{pid & 255}"  # nobody else takes a port of it meanwhile
        with socket.create_server((here, 0)) as free:
            port = free.getsockname()[1]
        words = [*COMMAND, "--listen", f"{here}:{port}", "--to", target]
        command = [sys.executable, "-m", "engine.cli.main", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as relay:
            assert relay.stdout is not None
            assert relay.stderr is not None
            line = relay.stdout.readline()
            assert line == f"UDP over TCP from {here}:{port} to {target}\n"
            with socket.create_connection((here, port), timeout=10) as connection:
                connection.sendall(frame(b"hello"))
                data, source = server.recvfrom(100)
                assert data == b"hello"
                server.sendto(b"answer", source)
                assert connection.recv(100) == frame(b"answer")
            relay.send_signal(signal.SIGTERM)
            assert (relay.wait(10), relay.stderr.read()) == (0, "")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--listen", "here:1", "--to", "127.0.0.1:1"], BAD_INPUT, "'here:1' is not an IP address"),
        (["--listen", "127.0.0.1:1", "--to", "127.0.0.1:0"], BAD_INPUT, "the port must be 1 to 65535"),
        (["--to", "127.0.0.1:1"], BAD_INPUT, "Missing option '--listen'"),
        (["--listen", "192.0.2.1:443", "--to", "127.0.0.1:1"], FAILED, "cannot listen on 192.0.2.1:443: Cannot assign"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(words: list[str], code: int, sentence: str) -> None:
    result = CliRunner().invoke(molehill, [*COMMAND, *words])
    assert (result.exit_code, sentence in result.output) == (code, True), result.output

"""The drop-in command: starts, answers `wg`, and ends in each of the documented ways."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.tunnel.link import gso_max_size
from tests.netns.engines import wait_until_idle

pytestmark = pytest.mark.netns

COMMAND = [sys.executable, "-m", "engine.tunnel.molehill_wg"]
IFACE = f"mhw{os.getpid()}"
SOCKET = Path(f"/var/run/wireguard/{IFACE}.sock")


def wait(condition: str, seconds: float = 20.0) -> bool:
    """Is the interface `there`, or `gone`, in time?"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        there = Path(f"/sys/class/net/{IFACE}").exists() and SOCKET.exists()
        gone = not Path(f"/sys/class/net/{IFACE}").exists() and not SOCKET.exists()
        if there if condition == "there" else gone:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """The command in the foreground."""
    running = subprocess.Popen([*COMMAND, "-f", IFACE], stderr=subprocess.PIPE, text=True)
    try:
        assert wait("there")
        yield running
    finally:
        running.kill()
        running.communicate()
        SOCKET.unlink(missing_ok=True)  # the next one's is there only once it listens


def test_wg_shows_the_fresh_interface(process: subprocess.Popen[str]) -> None:
    shown = subprocess.run(["wg", "show", IFACE, "dump"], capture_output=True, text=True, check=True).stdout
    assert shown.split("\t")[0] == "(none)"


def test_deleting_the_interface_ends_it(process: subprocess.Popen[str]) -> None:
    subprocess.run(["ip", "link", "del", IFACE], check=True)
    assert process.wait(20) == 0
    assert wait("gone")


def test_deleting_the_socket_ends_it(process: subprocess.Popen[str]) -> None:
    SOCKET.unlink()
    assert process.wait(20) == 0
    assert wait("gone")


def test_a_signal_ends_it(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert wait("gone")


def test_setting_the_interface_down_and_up_does_not_end_it(process: subprocess.Popen[str]) -> None:
    for word in ("up", "down", "up"):
        subprocess.run(["ip", "link", "set", IFACE, word], check=True)
    time.sleep(0.1)
    assert process.poll() is None
    subprocess.run(["wg", "show", IFACE], check=True, capture_output=True)


def test_an_idle_interface_wakes_nobody(process: subprocess.Popen[str]) -> None:
    subprocess.run(["ip", "link", "set", IFACE, "up"], check=True)
    wait_until_idle(process.pid, 1.5, wakes=4)  # not at once: the kernel solicits routers


def test_in_the_background_the_command_returns_when_the_interface_is_ready() -> None:
    subprocess.run([*COMMAND, IFACE], check=True, timeout=10)
    try:
        assert Path(f"/sys/class/net/{IFACE}").exists()
        subprocess.run(["wg", "show", IFACE], check=True, capture_output=True)
    finally:
        subprocess.run(["ip", "link", "del", IFACE], check=True)
    assert wait("gone")


def test_a_second_process_of_the_same_name_is_refused_in_one_sentence(process: subprocess.Popen[str]) -> None:
    second = subprocess.run([*COMMAND, "-f", IFACE], capture_output=True, text=True, timeout=10, check=False)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "in use by another process" in second.stderr


def test_a_bad_name_is_refused_in_one_sentence() -> None:
    bad = subprocess.run([*COMMAND, "-f", "much-too-long-a-name"], capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert "interface name" in bad.stderr
    assert bad.stderr.count("\n") == 1


def test_help_says_that_no_policy_is_applied() -> None:
    shown = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    assert "NO POLICY IS APPLIED" in shown


def test_super_packets_fit_one_send_whatever_the_mtu(process: subprocess.Popen[str]) -> None:
    def size() -> int:
        shown = subprocess.run(["ip", "-d", "link", "show", IFACE], capture_output=True, text=True, check=True).stdout
        return int(shown.split("gso_max_size ")[1].split()[0])

    for mtu in (1420, 1280, 9000):
        subprocess.run(["ip", "link", "set", IFACE, "mtu", str(mtu)], check=True)
        end = time.monotonic() + 5
        while size() != gso_max_size(mtu) and time.monotonic() < end:
            time.sleep(0.02)
        assert size() == gso_max_size(mtu)

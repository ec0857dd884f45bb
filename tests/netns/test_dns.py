"""`molehill run` and the machine's resolvers, each run in a mount namespace with a resolv.conf of its own.

The machine's own /etc/resolv.conf and /var/lib are never touched: the namespace is private, and both are covered.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import lab
from tests.netns.lab import wait_until
from tests.netns.scenario import Walk

pytestmark = pytest.mark.netns

FORMER = f"# the provider's\nnameserver {lab.ISP4}\n"
# What getaddrinfo says, by the lab's servers: the address from which they saw the question come.
_ASK = "import socket; print(socket.getaddrinfo('www.example.test', 80, socket.AF_INET)[0][4][0])"


class Private:
    """The device with an /etc and a /var/lib that are nobody else's, entered by way of a shell that waits in it."""

    def __init__(self, walk: Walk, bound: bool) -> None:
        self.walk, self.here = walk, walk.lab.dir / "private"
        (self.here / "lib").mkdir(parents=True)
        self.file = self.here / "resolv.conf"
        self.file.write_text(FORMER)
        if bound:  # as in a container: a mount that cannot be renamed over
            cover = f"mount --bind {self.file} /etc/resolv.conf"
        else:
            (self.here / "etc").mkdir()
            (self.here / "work").mkdir()
            cover = f"mount -t tmpfs tmpfs {self.here}/etc && cp -a /etc/. {self.here}/etc/ && " \
                    f"cp --remove-destination {self.file} {self.here}/etc/resolv.conf && " \
                    f"mount --bind {self.here}/etc /etc"  # fmt: skip
        ready = self.here / "ready"
        script = f"{cover} && mount --bind {self.here}/lib /var/lib && touch {ready} && exec sleep 600"
        self._shell = walk.lab.start(
            walk.lab["device"], "unshare", "--mount", "--propagation", "private", "sh", "-ec", script
        )
        wait_until(lambda: ready.exists() or not self._shell.running, 20, "the private mount namespace")
        assert ready.exists(), self._shell.output()
        assert os.stat(f"/proc/{self._shell.pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._shell.pid}/ns/mnt"]

    def run(self, *options: str, dns: str = "file") -> None:
        conf = self.walk.write_conf()
        self.walk.run = self.walk.lab.start(
            self.walk.lab["device"], *self.enter, "molehill", "run", str(conf), "--json", *options,
            env={"MOLEHILL_DNS": dns},
        )  # fmt: skip

    def sh(self, *command: str) -> str:
        return self.walk.lab["device"].sh(*self.enter, *command)

    def resolv_conf(self) -> str:
        return self.sh("cat", "/etc/resolv.conf")

    def asks(self) -> str:
        return self.sh(sys.executable, "-c", _ASK).strip()

    def records(self) -> list[str]:
        return self.sh("sh", "-c", "ls /var/lib/molehill 2>/dev/null || true").split()


BOTH = pytest.mark.parametrize("device", ["a file", "a mount"], indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Private]:
    machines = Path("/etc/resolv.conf")
    before = (machines.read_bytes(), machines.lstat()) if machines.exists() else None
    with Walk(progress=lambda text: None) as walk:
        yield Private(walk, getattr(request, "param", "") == "a mount")
    after = (machines.read_bytes(), machines.lstat()) if machines.exists() else None
    assert (before and (before[0], before[1].st_ino)) == (after and (after[0], after[1].st_ino)), "the machine's own"


@BOTH
def test_getaddrinfo_asks_the_gateway_while_connected_and_the_former_server_afterwards(device: Private) -> None:
    assert device.asks() == lab.DEVICE4
    device.run()
    device.walk.wait_for("connected", 20)
    assert f"nameserver {lab.GATEWAY4}\n" in device.resolv_conf()
    assert lab.ISP4 not in device.resolv_conf()
    assert device.asks() == lab.TUNNEL4
    assert device.walk.status()["dns"] == f"{lab.GATEWAY4} by file"
    assert device.walk.stop() == 0
    assert device.resolv_conf() == FORMER
    assert device.records() == []
    assert device.asks() == lab.DEVICE4


def test_while_connecting_the_file_stays_and_lookups_are_blocked(device: Private) -> None:
    device.walk.cut_relay(True)
    device.run()
    device.walk.wait_for("connecting", 20)
    assert device.resolv_conf() == FORMER
    with pytest.raises(RuntimeError, match="gaierror"):
        device.asks()


@BOTH
def test_after_a_kill_the_next_start_and_unblock_put_the_former_file_back(device: Private) -> None:
    device.run()
    device.walk.wait_for("connected", 20)
    assert device.walk.stop(signal.SIGKILL) == -signal.SIGKILL
    assert lab.GATEWAY4 in device.resolv_conf()
    device.walk.cut_relay(True)
    device.run()
    device.walk.wait_for("connecting", 20)
    assert device.resolv_conf() == FORMER
    device.walk.cut_relay(False)
    device.walk.wait_for("connected", 30)
    assert device.walk.stop(signal.SIGKILL) == -signal.SIGKILL
    bin_dir = device.walk.lab.dir / "bin" / "molehill"
    device.sh("env", "MOLEHILL_DNS=file", str(bin_dir), "unblock")
    assert device.resolv_conf() == FORMER
    assert device.records() == []


@BOTH
def test_what_a_dhcp_client_writes_meanwhile_is_replaced_again_and_comes_back_afterwards(device: Private) -> None:
    device.run()
    device.walk.wait_for("connected", 20)
    for _ in range(2):
        device.sh("sh", "-c", "echo nameserver 192.0.2.53 >/etc/resolv.conf")
        wait_until(lambda: lab.GATEWAY4 in device.resolv_conf(), 10, "our servers in resolv.conf")
    assert device.walk.status()["dns"] == f"{lab.GATEWAY4} by file"
    assert device.walk.status()["state"] == "connected"
    assert device.walk.stop() == 0
    assert device.resolv_conf() == "nameserver 192.0.2.53\n"
    assert device.records() == []


def test_a_manager_that_is_not_there_is_an_error_that_blocks(device: Private) -> None:
    device.run(dns="resolvconf")
    device.walk.wait_for("error", 20)
    status = device.walk.status()
    assert status["cause_kind"] == "set-dns"
    assert status["enforced"] is True
    with pytest.raises(RuntimeError, match="gaierror"):
        device.asks()

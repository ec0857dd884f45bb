"""The real managers of the machine's resolvers, on Debian's own systemd: systemd-resolved and NetworkManager."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.device import Device, device
from tests.boot.machine import MANAGERS
from tests.netns import lab
from tests.netns.lab import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.netns]

NM = "NetworkManager.service"
STUB = "../run/systemd/resolve/stub-resolv.conf"
# What getaddrinfo says, by the lab's servers: the address from which they saw the question come.
ASK = ("python3", "-c", "import socket; print(socket.getaddrinfo('www.example.test', 80, socket.AF_INET)[0][4][0])")


@pytest.fixture
def managed(installed: Path) -> Iterator[Device]:
    """A device with both managers, not booted."""
    assert MANAGERS.is_dir(), f"there is no {MANAGERS}: make test-boot makes it"
    with device(installed, MANAGERS) as made:
        yield made


def mask(managed: Device, unit: str) -> None:
    managed.machine.link(f"etc/systemd/system/{unit}", "/dev/null")


@pytest.fixture
def resolved(managed: Device) -> Device:
    """systemd-resolved is in charge, and asks the provider's server."""
    mask(managed, NM)
    (managed.machine.disk / "upper/etc/resolv.conf").unlink()
    managed.machine.link("etc/resolv.conf", STUB)
    managed.machine.write("etc/systemd/resolved.conf.d/lab.conf", f"[Resolve]\nDNS={lab.ISP4}\nDNSSEC=no\nLLMNR=no\n")
    managed.boot()
    return managed


@pytest.fixture
def network_manager(managed: Device) -> Device:
    """NetworkManager is in charge, of the wire too, and writes resolv.conf itself."""
    mask(managed, "systemd-resolved.service")
    managed.machine.link(f"etc/systemd/system/multi-user.target.wants/{NM}", f"/lib/systemd/system/{NM}")
    (managed.machine.disk / "upper/etc/systemd/system/sysinit.target.wants/lab-network.service").unlink()
    managed.machine.write(
        "etc/NetworkManager/conf.d/lab.conf", "[main]\ndns=default\nrc-manager=file\nplugins=keyfile\n"
    )
    managed.machine.write(
        "etc/NetworkManager/system-connections/wire.nmconnection",
        "[connection]\nid=wire\nuuid=0d1f3c1e-0f5e-4a53-8d4c-6d1f4f0a9e01\ntype=ethernet\ninterface-name=eth0\n"
        f"[ipv4]\nmethod=manual\naddress1={lab.DEVICE4}/24,{lab.ISP4}\ndns={lab.ISP4};\n[ipv6]\nmethod=disabled\n",
    )
    (managed.machine.disk / "upper/etc/NetworkManager/system-connections/wire.nmconnection").chmod(0o600)
    managed.boot()
    wait_until(lambda: "100 (connected)" in managed.machine.try_run(
        "nmcli", "-g", "GENERAL.STATE", "device", "show", "eth0").stdout, 30, "the wire")  # fmt: skip
    return managed


def test_resolved_asks_the_relays_resolver_while_connected_and_the_provider_afterwards(resolved: Device) -> None:
    run = resolved.machine.run
    assert run(*ASK).strip() == lab.DEVICE4
    resolved.connect()
    assert resolved.status()["dns"] == f"{lab.GATEWAY4} by systemd-resolved"
    assert lab.GATEWAY4 in run("resolvectl", "dns", "molehill0")
    assert "~." in run("resolvectl", "domain", "molehill0")
    assert run(*ASK).strip() == lab.TUNNEL4

    run("systemctl", "restart", "systemd-resolved")
    wait_until(lambda: lab.GATEWAY4 in run("resolvectl", "dns", "molehill0"), 5, "our server, once more")
    assert run(*ASK).strip() == lab.TUNNEL4
    assert resolved.status()["state"] == "connected"
    assert resolved.walk.leaks() == []
    resolved.walk.unguard()

    run("molehill", "disconnect", "--wait")
    assert run("readlink", "/etc/resolv.conf").strip() == STUB
    assert run(*ASK).strip() == lab.DEVICE4


def asks_the_relay(managed: Device) -> None:
    """NetworkManager lays our routes anew when it is told something: for a moment a lookup may fail."""
    wait_until(lambda: managed.machine.try_run(*ASK).stdout.strip() == lab.TUNNEL4, 15, "a lookup by the relay")


def test_network_manager_names_the_relays_resolver_alone_while_connected(network_manager: Device) -> None:
    run = network_manager.machine.run
    before = run("cat", "/etc/resolv.conf")
    assert f"nameserver {lab.ISP4}" in before
    assert run(*ASK).strip() == lab.DEVICE4
    network_manager.connect()
    assert network_manager.status()["dns"] == f"{lab.GATEWAY4} by NetworkManager"
    assert f"nameserver {lab.GATEWAY4}" in run("cat", "/etc/resolv.conf")
    assert lab.ISP4 not in run("cat", "/etc/resolv.conf")
    asks_the_relay(network_manager)

    run("systemctl", "restart", "NetworkManager")
    wait_until(lambda: lab.ISP4 not in run("cat", "/etc/resolv.conf"), 15, "our server alone, once more")
    asks_the_relay(network_manager)
    assert network_manager.status()["state"] == "connected"
    assert network_manager.walk.leaks() == []
    network_manager.walk.unguard()

    run("molehill", "disconnect", "--wait")
    assert run("cat", "/etc/resolv.conf") == before
    assert run(*ASK).strip() == lab.DEVICE4

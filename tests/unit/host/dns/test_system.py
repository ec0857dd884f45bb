"""Which manager is found, and what each is told: D-Bus ones by doubles on a private bus, resolvconf by a script."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvloop

from engine.host.dns import DnsError, SystemDns, resolvconf
from engine.host.dns import system as system_module
from tests.unit.host.dns import daemons
from tests.unit.host.dns.daemons import FakeDevice, FakeDnsManager, FakeNetworkManager, FakeResolved

IPV4, IPV6 = ip_address("10.64.0.1"), ip_address("fc00:64::1")
LOCAL = ip_address("192.168.1.53")
FORMER = "nameserver 192.168.1.1\n"
LO = socket.if_nametoindex("lo")  # a link that is surely there; only doubles are told of it

needs_bus = pytest.mark.skipif(bool(daemons.missing()), reason=daemons.missing() or "-")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text(FORMER)
    monkeypatch.setattr(resolvconf, "program", lambda: None)
    monkeypatch.delenv("MOLEHILL_DNS", raising=False)
    return tmp_path


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    with daemons.private_bus(tmp_path) as address:
        yield address


def link(root: Path, target: str) -> None:
    path = root / "etc/resolv.conf"
    path.unlink()
    path.symlink_to(target)


NOWHERE = "unix:path=/nonexistent/bus"


# The file, and the choice by hand


def with_dns(dns: SystemDns, work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await work()
        finally:
            await dns.close()

    asyncio.run(main())


def test_without_any_manager_it_is_the_file(root: Path) -> None:
    dns = SystemDns(root, NOWHERE)

    async def work() -> None:
        await dns.set("lo", (IPV4, IPV6))
        assert dns.describe() == "10.64.0.1, fc00:64::1 by file"
        assert "nameserver 10.64.0.1\n" in (root / "etc/resolv.conf").read_text()
        await dns.reset()
        assert dns.describe() == ""
        assert (root / "etc/resolv.conf").read_text() == FORMER

    with_dns(dns, work)


def test_a_link_to_the_stub_that_nobody_serves_falls_back_to_the_file(root: Path) -> None:
    link(root, "../run/systemd/resolve/stub-resolv.conf")
    dns = SystemDns(root, NOWHERE)

    async def work() -> None:
        await dns.set("lo", (IPV4,))
        assert dns.describe().endswith("by file")

    with_dns(dns, work)


def test_none_touches_nothing_and_recovers_nothing(root: Path) -> None:
    dns = SystemDns(root, NOWHERE, "none")

    async def work() -> None:
        await dns.recover()
        await dns.set("lo", (IPV4,))
        assert dns.describe() == ""
        await dns.reset()

    with_dns(dns, work)
    assert (root / "etc/resolv.conf").read_text() == FORMER
    assert not (root / "var").exists()


def test_without_servers_nothing_is_touched(root: Path) -> None:
    dns = SystemDns(root, NOWHERE)

    async def work() -> None:
        await dns.set("lo", ())

    with_dns(dns, work)
    assert (root / "etc/resolv.conf").read_text() == FORMER


def test_a_choice_that_is_none_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEHILL_DNS", "bind")
    with pytest.raises(ValueError, match="MOLEHILL_DNS=bind is none of resolved, networkmanager, resolvconf, file"):
        SystemDns()


@pytest.mark.parametrize("choice", ["resolved", "networkmanager", "resolvconf"])
def test_a_choice_that_is_not_there_is_one_sentence(root: Path, choice: str) -> None:
    dns = SystemDns(root, NOWHERE, choice)

    async def work() -> None:
        with pytest.raises(DnsError, match=f"MOLEHILL_DNS={choice} needs the .*, and there is none"):
            await dns.set("lo", (IPV4,))
        await dns.reset()

    with_dns(dns, work)
    assert (root / "etc/resolv.conf").read_text() == FORMER


def test_somebody_elses_change_is_told_in_the_status(root: Path) -> None:
    dns = SystemDns(root, NOWHERE)

    async def work() -> None:
        await dns.set("lo", (IPV4,))
        (root / "etc/resolv.conf").write_text(FORMER)
        assert dns.describe().endswith(f"but {root}/etc/resolv.conf has been changed since")

    with_dns(dns, work)


# systemd-resolved


def with_resolved(bus: str, dns: SystemDns, work: Callable[[FakeResolved], Awaitable[None]]) -> FakeResolved:
    fake = FakeResolved()

    async def main() -> None:
        served = await daemons.serve(bus, "org.freedesktop.resolve1", manager=("/org/freedesktop/resolve1", fake))
        try:
            await work(fake)
        finally:
            await dns.close()
            served.disconnect()

    uvloop.run(main())  # the loop of `molehill run`
    return fake


@needs_bus
@pytest.mark.parametrize(
    "target", ["../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf", ""]
)
def test_resolved_gets_servers_and_every_domain_for_the_link_and_loses_them_again(
    root: Path, bus: str, target: str
) -> None:
    if target:
        link(root, target)
    else:
        (root / "etc/resolv.conf").write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
    dns = SystemDns(root, bus)

    async def work(fake: FakeResolved) -> None:
        await dns.set("lo", (IPV4, IPV6))
        assert dns.describe() == "10.64.0.1, fc00:64::1 by systemd-resolved"
        servers = [(socket.AF_INET, IPV4.packed), (socket.AF_INET6, IPV6.packed)]
        assert fake.links == {LO: {"dns": servers, "domains": [(".", True)], "default": True}}
        await dns.reset()
        assert fake.links == {}

    fake = with_resolved(bus, dns, work)
    once = ["SetLinkDNS", "SetLinkDomains", "SetLinkDefaultRoute", "FlushCaches", "RevertLink", "FlushCaches"]
    assert fake.calls == once


@needs_bus
@pytest.mark.parametrize("target", ["../run/systemd/resolve/resolv.conf", ""])
def test_resolved_that_nobody_asks_is_not_used(root: Path, bus: str, target: str) -> None:
    if target:
        link(root, target)
    dns = SystemDns(root, bus)

    async def work(fake: FakeResolved) -> None:
        await dns.set("lo", (IPV4,))
        assert dns.describe() == "10.64.0.1 by file"

    assert with_resolved(bus, dns, work).calls == []


@needs_bus
def test_a_custom_server_outside_the_tunnel_is_not_given_to_the_tunnels_link(root: Path, bus: str) -> None:
    dns = SystemDns(root, bus, "resolved")

    async def work(fake: FakeResolved) -> None:
        await dns.set("lo", (LOCAL, IPV4), frozenset({LOCAL}))
        assert fake.links[LO]["dns"] == [(socket.AF_INET, IPV4.packed)]
        await dns.set("lo", (LOCAL,), frozenset({LOCAL}))
        assert fake.links == {}

    with_resolved(bus, dns, work)


@needs_bus
@pytest.mark.parametrize("refuses", ["SetLinkDNS", "SetLinkDomains", "FlushCaches"])
def test_what_resolved_refuses_is_told_in_its_words(root: Path, bus: str, refuses: str) -> None:
    dns = SystemDns(root, bus, "resolved")

    async def work(fake: FakeResolved) -> None:
        fake.refuses = refuses
        with pytest.raises(DnsError, match=f"resolve1 refused {refuses}: not for you"):
            await dns.set("lo", (IPV4,))
        fake.refuses = ""
        await dns.reset()
        assert fake.links == {}

    with_resolved(bus, dns, work)


@needs_bus
def test_an_interface_that_is_gone_has_nothing_to_restore_and_can_be_given_nothing(root: Path, bus: str) -> None:
    dns = SystemDns(root, bus, "resolved")

    async def work(fake: FakeResolved) -> None:
        with pytest.raises(DnsError, match="the interface gone0 does not exist"):
            await dns.set("gone0", (IPV4,))
        await dns.reset()
        assert fake.calls == ["FlushCaches"]

    with_resolved(bus, dns, work)


@needs_bus
def test_a_service_that_never_answers_does_not_hold_the_session(
    root: Path, bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_module, "SECONDS", 0.2)
    dns = SystemDns(root, bus, "resolved")

    async def main() -> None:
        from dbus_fast.aio import MessageBus

        silent = await MessageBus(bus).connect()
        await silent.request_name("org.freedesktop.resolve1")
        silent.add_message_handler(lambda message: True)  # taken, and never answered
        with pytest.raises(DnsError, match="systemd-resolved gave no answer in"):
            await dns.set("lo", (IPV4,))
        await dns.close()
        silent.disconnect()
        await asyncio.sleep(0.05)

    asyncio.run(main())


# NetworkManager


async def network_manager(bus: str, device: FakeDevice, mode: str = "symlink") -> Callable[[], None]:
    home = "/org/freedesktop/NetworkManager"
    served = await daemons.serve(
        bus,
        "org.freedesktop.NetworkManager",
        manager=(home, FakeNetworkManager("lo")),
        device=(f"{home}/Devices/7", device),
        dns=(f"{home}/DnsManager", FakeDnsManager(mode)),
    )
    return served.disconnect


@needs_bus
@pytest.mark.parametrize("linked", [True, False])
def test_networkmanager_re_applies_the_device_with_the_servers_first_and_then_as_it_was(
    root: Path, bus: str, linked: bool
) -> None:
    if linked:
        link(root, "/run/NetworkManager/resolv.conf")
    else:
        (root / "etc/resolv.conf").write_text("# Generated by NetworkManager\n" + FORMER)
    dns, device = SystemDns(root, bus), FakeDevice()

    async def main() -> None:
        done = await network_manager(bus, device)
        await dns.set("lo", (IPV4, IPV6))
        assert dns.describe().endswith("by NetworkManager")
        four, six = device.applied["ipv4"], device.applied["ipv6"]
        assert four["dns"].value == [int.from_bytes(IPV4.packed, "little")]
        assert [bytes(raw) for raw in six["dns"].value] == [IPV6.packed]
        assert four["dns-priority"].value == six["dns-priority"].value == -(2**31)
        assert four["dns-search"].value == ["~."]
        assert four["address-data"].value[0]["address"].value == "10.64.0.2"
        assert "addresses" not in four
        await dns.set("lo", (IPV4,))  # the former settings are those from before the first change
        assert device.applied["ipv6"]["dns-search"].value == []
        await dns.reset()
        assert device.applied["ipv4"]["dns"].value == []
        assert "dns-priority" not in device.applied["ipv4"]
        assert device.reapplied == [(3, 0), (4, 0), (0, 0)]
        await dns.close()
        done()

    asyncio.run(main())


@needs_bus
def test_networkmanager_that_leaves_resolv_conf_alone_is_not_used(root: Path, bus: str) -> None:
    (root / "etc/resolv.conf").write_text("# Generated by NetworkManager\n" + FORMER)
    dns, device = SystemDns(root, bus), FakeDevice()

    async def main() -> None:
        done = await network_manager(bus, device, "unmanaged")
        await dns.set("lo", (IPV4,))
        assert dns.describe().endswith("by file")
        assert device.reapplied == []
        await dns.close()
        done()

    asyncio.run(main())


@needs_bus
def test_a_device_that_networkmanager_does_not_know_is_one_sentence(root: Path, bus: str) -> None:
    dns, device = SystemDns(root, bus, "networkmanager"), FakeDevice()

    async def main() -> None:
        done = await network_manager(bus, device)
        with pytest.raises(DnsError, match=r"NetworkManager does not manage mh0 .*use MOLEHILL_DNS=file"):
            await dns.set("mh0", (IPV4,))
        await dns.reset()
        await dns.close()
        done()

    asyncio.run(main())


# Restarts


@needs_bus
def test_a_manager_that_begins_anew_is_noticed_and_told_again(root: Path, bus: str) -> None:
    link(root, "/run/systemd/resolve/stub-resolv.conf")
    dns = SystemDns(root, bus)

    async def work() -> None:
        noticed = asyncio.Event()
        dns.on_forgotten = noticed.set
        first = await daemons.serve(
            bus, "org.freedesktop.resolve1", manager=("/org/freedesktop/resolve1", FakeResolved())
        )
        await dns.set("lo", (IPV4,))
        first.disconnect()
        assert not dns.disturbed()  # nobody is there to be told anything
        anew = FakeResolved()
        second = await daemons.serve(bus, "org.freedesktop.resolve1", manager=("/org/freedesktop/resolve1", anew))
        await asyncio.wait_for(noticed.wait(), 5)
        assert dns.describe() == f"{IPV4} by systemd-resolved, but systemd-resolved has been restarted since"
        await dns.set("lo", (IPV4,))
        assert not dns.disturbed()
        assert "SetLinkDNS" in str(anew.calls)
        await dns.reset()
        second.disconnect()

    with_dns(dns, work)


def test_a_file_that_cannot_be_written_once_more_is_an_error_with_its_own_words(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dns = SystemDns(root, NOWHERE)

    async def refuse(*args: object) -> None:
        raise DnsError("no room for resolv.conf")

    async def work() -> None:
        await dns.set("lo", (IPV4,))
        monkeypatch.setattr(dns._file, "set", refuse)
        with pytest.raises(DnsError, match="no room"):
            await dns.set("lo", (IPV6,))

    with_dns(dns, work)


@needs_bus
def test_a_manager_that_stays_away_is_an_error_with_its_words_after_a_while(
    root: Path, bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(root, "/run/systemd/resolve/stub-resolv.conf")
    monkeypatch.setattr(system_module, "RESTART_SECONDS", 0.5)
    dns = SystemDns(root, bus)

    async def work() -> None:
        service = await daemons.serve(
            bus, "org.freedesktop.resolve1", manager=("/org/freedesktop/resolve1", FakeResolved())
        )
        await dns.set("lo", (IPV4,))
        service.disconnect()
        with pytest.raises(DnsError, match="resolve1 refused SetLinkDNS"):
            await dns.set("lo", (IPV6,))

    with_dns(dns, work)


@needs_bus
def test_after_the_bus_was_restarted_it_is_connected_anew(root: Path, tmp_path: Path) -> None:
    async def main() -> None:
        with daemons.private_bus(tmp_path) as address:
            dns = SystemDns(root, address, "file")
            before = await dns._connected()
        assert before is not None
        while before.alive:
            await asyncio.sleep(0.01)
        with pytest.raises(DnsError, match="the system bus is gone"):
            await before.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId")
        with daemons.private_bus(tmp_path):
            after = await dns._connected()
            assert after is not None
            assert after is not before
            assert after.alive
            await dns.close()

    uvloop.run(main())

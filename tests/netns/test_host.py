"""Routes, rules and addresses in a real kernel: what leaves and what does not, judged by `ip` as a witness."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from engine.host import Capture, Endpoint, Host, HostError, is_captured
from tests.netns.lab import Namespace, pair
from tun.linux import LinuxTun

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and routes need root"),
]

MARK = 0x6D6F6C65
CAPTURE = Capture(
    "mh0",
    MARK,
    addresses=(ip_interface("10.64.0.2/32"), ip_interface("fd64::2/128")),
    mtu=1380,
)
FAR_V4, FAR_V6 = "203.0.113.9", "2001:db8:9::9"


LAN = (ip_network("172.16.0.0/12"), ip_network("fc00::/7"))
LAN_V4, LAN_V6 = "172.16.9.2", "fd09::2"
FAR = (FAR_V4, FAR_V6)
NEAR = (LAN_V4, LAN_V6)


@pytest.fixture
def device() -> Iterator[Namespace]:
    """A namespace with eth0 to a LAN, and a default route over it for both families."""
    with pair() as lab:
        ns = lab["a"]
        ns.ip("route add default via 172.16.9.2")
        ns.ip("-6 route add default via fd09::2")
        with ns.entered():
            yield ns


def way(ns: Namespace, to: str, *words: str) -> str:
    """The device by which the kernel would send there, or "none"."""
    version = "-6" if ":" in to else "-4"
    try:
        found = json.loads(ns.sh("ip", "-json", version, "route", "get", to, *words))[0]
    except RuntimeError as error:
        return "none" if "No route to host" in str(error) or "unreachable" in str(error) else str(error)
    return "none" if found.get("type") == "unreachable" else str(found["dev"])


def marked(ns: Namespace, to: str) -> str:
    return way(ns, to, "mark", str(MARK))


async def captured(capture: Capture = CAPTURE) -> Host:
    host = Host()
    await host.capture(capture)
    return host


def run_captured(ns: Namespace, capture: Capture = CAPTURE) -> LinuxTun:
    """Open the TUN and capture; the descriptor is the caller's."""
    tun = LinuxTun(capture.interface, persist=True)

    async def work() -> None:
        await (await captured(capture)).close()

    asyncio.run(work())
    return tun


def release(interface: str = "mh0") -> None:
    async def work() -> None:
        host = Host()
        await host.release(interface, MARK)
        await host.close()

    asyncio.run(work())


def snapshot(ns: Namespace) -> list[str]:
    """All that a capture may touch, in the words of `ip`."""
    words = ("rule", "-6 rule", "route show table all", "-6 route show table all", "-brief link")
    return [ns.ip(line) for line in words]


def test_everything_unmarked_goes_into_the_tun_and_the_engine_s_own_goes_out(device: Namespace) -> None:
    tun = run_captured(device)
    for address in (*FAR, *NEAR):
        assert way(device, address) == "mh0"
        assert marked(device, address) == "eth0"
    tun.close()


def test_ipv6_is_captured_when_the_tunnel_has_only_ipv4(device: Namespace) -> None:
    tun = run_captured(device, replace(CAPTURE, addresses=(ip_interface("10.64.0.2/32"),)))
    assert way(device, FAR_V6) == "mh0"
    tun.close()


def test_a_family_without_a_route_into_the_tunnel_is_unreachable_not_open(device: Namespace) -> None:
    tun = run_captured(device, replace(CAPTURE, routes=(ip_network("0.0.0.0/0"),)))
    assert (way(device, FAR_V4), way(device, FAR_V6)) == ("mh0", "none")
    tun.close()


def test_an_ipv6_socket_bound_to_another_device_finds_no_way_past_the_tunnel(device: Namespace) -> None:
    tun = run_captured(device)
    for address in (FAR_V6, LAN_V6):
        assert way(device, address, "oif", "eth0") == "none"
    tun.close()


def test_known_limit_an_ipv4_socket_bound_to_another_device_is_not_captured(device: Namespace) -> None:
    """Linux takes a missing IPv4 route of a bound socket for "on the link": docs/known-issues.md."""
    tun = run_captured(device)
    assert way(device, LAN_V4, "oif", "eth0") == "eth0"
    tun.close()


def test_allowed_lan_is_reached_outside_but_not_what_only_claims_to_be_near(device: Namespace) -> None:
    device.ip("route add 203.0.113.0/24 via 172.16.9.2")  # what a hostile DHCP server would add
    tun = run_captured(device, replace(CAPTURE, lan=LAN))
    for address in NEAR:
        assert way(device, address) == "eth0"
        assert way(device, address, "ipproto", "udp", "dport", "53") == "mh0"
        assert way(device, address, "ipproto", "tcp", "dport", "53") == "mh0"
    for address in FAR:
        assert way(device, address) == "mh0"
    assert way(device, "172.20.0.1") == "mh0", "a LAN address without a route of its own"
    tun.close()


def test_a_dhcp_client_can_change_routes_while_everything_is_captured(device: Namespace) -> None:
    tun = run_captured(device)
    device.ip("route del default")
    device.ip("-6 route del default")
    device.ip("route add default via 172.16.9.2")
    device.ip("route add 203.0.113.0/24 via 172.16.9.2 dev eth0")
    device.ip("-6 route add default via fd09::2")
    for address in FAR:
        assert way(device, address) == "mh0"
        assert marked(device, address) == "eth0"
    device.ip("link set eth0 down")
    device.ip("link set eth0 up")
    device.ip("route add default via 172.16.9.2")
    assert way(device, FAR_V4) == "mh0"
    assert marked(device, FAR_V4) == "eth0", "the gateway was looked for outside the tunnel"
    tun.close()


def test_a_socket_that_asks_for_the_link_only_finds_no_way_past_the_tunnel(device: Namespace) -> None:
    tun = run_captured(device)
    udp_lite = 136  # and with it every other protocol that a user's socket can speak
    for family, near, protocol in (
        (socket.AF_INET, LAN_V4, socket.IPPROTO_UDP),
        (socket.AF_INET6, LAN_V6, socket.IPPROTO_UDP),
        (socket.AF_INET, LAN_V4, udp_lite),
        (socket.AF_INET6, LAN_V6, udp_lite),
    ):
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
        except OSError:
            assert protocol == udp_lite, "newer kernels have no UDP-Lite any more"
            continue
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
            sock.setblocking(False)
            try:
                sock.connect((near, 9))
            except OSError:
                continue
            assert sock.getsockname()[0] in ("10.64.0.2", "fd64::2"), "by the tunnel"
    tun.close()


def test_a_local_dns_server_is_reached_outside_for_dns_only(device: Namespace) -> None:
    tun = run_captured(device, replace(CAPTURE, local_dns=(ip_address(LAN_V4),)))
    assert way(device, LAN_V4, "ipproto", "udp", "dport", "53") == "eth0"
    assert way(device, LAN_V4, "ipproto", "udp", "dport", "80") == "mh0"
    tun.close()


def test_the_apis_endpoint_is_reached_outside_by_root_and_by_nothing_that_is_forwarded(device: Namespace) -> None:
    tun = run_captured(device, replace(CAPTURE, api=Endpoint(ip_address(FAR_V4), 443, 6)))
    to_it = ("ipproto", "tcp", "dport", "443")
    assert way(device, FAR_V4, *to_it, "uid", "0") == "eth0"
    assert way(device, FAR_V4, *to_it, "uid", "1000") == "mh0"
    assert way(device, FAR_V4, "ipproto", "udp", "dport", "443", "uid", "0") == "mh0"
    assert way(device, FAR_V4, *to_it[:3], "80", "uid", "0") == "mh0"
    device.ip("link add other type veth peer name rehto")
    device.ip("addr add 10.77.0.1/24 dev other")
    device.ip("link set other up")
    device.sh("sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert way(device, FAR_V4, "from", "10.77.0.9", "iif", "other", *to_it) == "mh0"
    before = snapshot(device)
    asyncio.run(again(replace(CAPTURE, api=Endpoint(ip_address(FAR_V4), 443, 6))))
    assert snapshot(device) == before
    tun.close()


def test_excluded_users_go_their_own_way_and_included_ones_are_captured_alone(device: Namespace) -> None:
    tun = run_captured(device, replace(CAPTURE, excluded_uids=(1234,)))
    assert way(device, FAR_V4, "uid", "1234") == "eth0"
    assert way(device, FAR_V4, "uid", "1235") == "mh0"
    asyncio.run(again(replace(CAPTURE, included_uids=(1234,))))
    assert way(device, FAR_V4, "uid", "1234") == "mh0"
    assert way(device, FAR_V4, "uid", "1235") == "eth0"
    tun.close()


async def again(capture: Capture) -> None:
    await (await captured(capture)).close()


def test_capturing_twice_changes_nothing_and_a_change_leaves_nothing_stale(device: Namespace) -> None:
    tun = run_captured(device)
    once = snapshot(device)
    asyncio.run(again(CAPTURE))
    assert snapshot(device) == once
    other = replace(CAPTURE, lan=LAN, local_dns=(ip_address(LAN_V4),), addresses=(ip_interface("10.1.1.1/32"),))
    asyncio.run(again(other))
    assert snapshot(device) != once
    asyncio.run(again(CAPTURE))
    assert sorted(snapshot(device)) == sorted(once)
    tun.close()


def test_addresses_may_go_from_ipv4_to_none_to_ipv6_alone_and_back(device: Namespace) -> None:
    v4, v6 = CAPTURE.addresses

    async def work() -> None:
        host = Host()
        for addresses in ((v4,), (), (v4, v6), (v6,), (v4,), (v6,), (v4, v6)):
            await host.capture(replace(CAPTURE, addresses=addresses))
            found = device.ip("-brief addr show dev mh0").split()[2:]
            assert {each for each in found if not each.startswith("fe80")} == {str(each) for each in addresses}
            assert [way(device, address) for address in FAR] == ["mh0", "mh0"]
            assert await host.disturbed() is None
        await host.close()

    tun = LinuxTun("mh0", persist=True)
    asyncio.run(work())
    release()
    tun.close()


def test_releasing_leaves_the_machine_as_it_was_found(device: Namespace) -> None:
    device.sh("sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1")
    before = snapshot(device)
    switch = ("sysctl", "-n", "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.all.src_valid_mark")
    switches = device.sh(*switch)
    tun = run_captured(device)
    assert device.sh(*switch).split() == ["2", "1"]
    release()
    tun.close()
    assert snapshot(device) == before
    assert device.sh(*switch) == switches
    release()  # nothing to do is fine


def test_an_interface_that_is_no_tunnel_is_never_deleted_and_keeps_nothing_blocked(
    device: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        host = Host()
        await host.release("eth0", MARK)
        await host.close()

    tun = run_captured(device)
    asyncio.run(work())
    assert "the interface eth0 is no tunnel: it is left alone" in caplog.text
    assert device.has_interface("eth0")
    assert not is_captured()
    tun.close()


@pytest.mark.parametrize("kind", ["tap", "tun"])
def test_another_programs_interface_of_our_name_is_never_deleted(device: Namespace, kind: str) -> None:
    if kind == "tap":
        device.ip("tuntap add mode tap name mh0")
        release()
        assert device.has_interface("mh0")
    else:
        theirs = LinuxTun("mh0")  # it goes with its owner: ours stay
        release()
        assert device.has_interface("mh0")
        theirs.close()


def test_block_needs_no_interface_and_leaves_no_exception_beyond_what_is_wanted(device: Namespace) -> None:
    async def work() -> None:
        host = Host()
        await host.block(replace(CAPTURE, lan=LAN))
        for address in FAR:
            assert (way(device, address), marked(device, address)) == ("none", "eth0")
        assert way(device, LAN_V4) == "eth0"
        await host.block(CAPTURE)
        for address in (*FAR, *NEAR):
            assert way(device, address) == "none"
        assert await host.disturbed() is None
        await host.close()

    before = snapshot(device)
    asyncio.run(work())
    release()
    assert snapshot(device) == before


def test_without_a_descriptor_to_be_had_what_blocks_is_set_nevertheless(
    device: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        host = Host()
        assert await host.disturbed() is None  # it has its socket now
        assert await host.reachable(ip_address(FAR_V4), MARK)
        with monkeypatch.context() as patch:
            patch.setattr("engine.host.netlink.sysctl.prepare", without_descriptors)
            with pytest.raises(HostError, match="Too many open files"):
                await host.capture(CAPTURE)
        for address in FAR:
            assert way(device, address) in ("none", "mh0")
        await host.close()

    def without_descriptors() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    tun = LinuxTun("mh0", persist=True)
    asyncio.run(work())
    release()
    tun.close()


def test_a_question_about_guests_that_fails_leaves_the_capture_in_force(
    device: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr("engine.host.netlink.Socket.ways", busy)
    tun = run_captured(device, replace(CAPTURE, guests=True))
    assert way(device, FAR_V4) == "mh0"
    release()
    tun.close()


def test_an_address_that_somebody_gives_our_interface_again_and_again_is_no_disturbance(device: Namespace) -> None:
    """NetworkManager wants a link-local one on every interface it is told of, and puts it back at once."""
    again = "ip monitor address | while read line; do ip addr replace fe80::1234/64 dev mh0; done"

    async def work() -> None:
        host = Host()
        await host.capture(CAPTURE)
        device.ip("addr add fe80::1234/64 dev mh0")
        assert await host.disturbed() is None
        manager = subprocess.Popen(["ip", "netns", "exec", device.name, "sh", "-c", again], start_new_session=True)
        try:
            for _ in range(20):
                await host.capture(CAPTURE)
        finally:
            os.killpg(manager.pid, signal.SIGKILL)
            manager.wait()
        await host.close()

    tun = LinuxTun("mh0")
    asyncio.run(work())
    release()
    tun.close()


def test_when_the_tun_vanishes_everything_is_unreachable(device: Namespace) -> None:
    tun = run_captured(device, replace(CAPTURE, lan=LAN))
    tun.close()
    device.ip("link del mh0")
    for address in FAR:
        assert way(device, address) == "none"
        assert marked(device, address) == "eth0"
    release()
    for address in FAR:
        assert way(device, address) == "eth0"


def test_a_persistent_tun_that_nobody_reads_still_catches_everything(device: Namespace) -> None:
    run_captured(device).close()
    for address in FAR:
        assert way(device, address) == "mh0"
    tun = run_captured(device)  # the next run takes the leftovers over
    assert way(device, FAR_V4) == "mh0"
    tun.close()
    release()


def test_a_tunnel_of_another_name_that_an_earlier_run_left_is_removed(device: Namespace) -> None:
    run_captured(device, replace(CAPTURE, interface="old0")).close()
    tun = run_captured(device)
    assert not device.has_interface("old0")
    for address in FAR:
        assert way(device, address) == "mh0"
    tun.close()


def test_a_missing_interface_is_one_clear_sentence_and_nothing_is_open(device: Namespace) -> None:
    async def work() -> None:
        host = Host()
        try:
            with pytest.raises(HostError, match="the interface mh0 does not exist"):
                await host.capture(CAPTURE)
        finally:
            await host.close()

    asyncio.run(work())
    assert way(device, FAR_V4) == "none"
    release()


def test_a_protected_socket_takes_the_way_outside(device: Namespace) -> None:
    tun = run_captured(device)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as protected,
    ):
        protected.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        plain.connect((FAR_V4, 9))
        protected.connect((FAR_V4, 9))
        assert plain.getsockname()[0] == "10.64.0.2"
        assert protected.getsockname()[0] == "172.16.9.1"
    tun.close()


@pytest.mark.parametrize(
    "route",
    ["throw 0.0.0.0/1", "prohibit 198.51.100.0/24", "default via 172.16.9.2 dev eth0 tos 0x10", "throw 2000::/3"],
)
def test_whatever_somebody_puts_into_our_table_is_removed(device: Namespace, route: str) -> None:
    async def main() -> None:
        host = await captured()
        before = snapshot(device)
        device.ip(f"{'-6 ' if '::' in route else ''}route add {route} table {MARK}")
        assert snapshot(device) != before
        assert await host.disturbed() is not None
        await host.capture(CAPTURE)
        assert await host.disturbed() is None
        assert snapshot(device) == before
        await host.close()

    tun = LinuxTun("mh0", persist=True)
    asyncio.run(main())
    release()
    tun.close()


def test_addresses_that_come_and_go_while_all_are_read_are_no_failure(device: Namespace) -> None:
    many = "".join(f"addr add 10.{100 + i // 250}.{i % 250}.1/32 dev eth0\n" for i in range(1500))
    device.sh("ip", "-batch", "-", stdin=many)
    ending = threading.Event()

    def come_and_go() -> None:
        while not ending.is_set():
            device.ip("addr add 172.31.0.1/32 dev eth0")
            device.ip("addr del 172.31.0.1/32 dev eth0")

    async def main() -> None:
        host = Host()
        for _ in range(60):
            await host.capture(replace(CAPTURE, guests=True))
        await host.close()

    tun = LinuxTun("mh0", persist=True)
    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        asyncio.run(main())
    finally:
        ending.set()
        other.join()
    release()
    tun.close()

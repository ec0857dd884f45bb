"""Two whole tunnels face to face in one process: in-memory TUNs, real UDP sockets on loopback, real time."""

import asyncio
import errno
import os
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address, ip_network

import pytest
import uvloop

from engine.filter import PASS_ALL, PASS_ALL_RULES, compile_policy
from engine.policy import Hop, Platform, Policy, Protocol, State, Tunnel
from engine.tunnel.events import HandshakeCompleted, Stopped, TunnelEvent
from engine.tunnel.resolve import ResolveError
from engine.tunnel.tunnel import Tunnel as Engine
from engine.wg.config import DeviceConfig, HostPort, PeerConfig
from engine.wg.events import EndpointChanged
from engine.wg.keys import public_key
from engine.wg.peer import Peer
from engine.wg.uapi import Get, UapiError, parse_request, update_from
from native.datapath import Event
from native.endpoint import Endpoint
from native.reasons import Reason
from tun import FdTun, pair

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers.inet import ICMP, IP, UDP

KEYS = [bytes([n]) * 31 + b"\x40" for n in (8, 16)]
ALL_PASS = [rule.id for rule in PASS_ALL_RULES]


@dataclass
class End:
    """One of the two: `app` is what applications would write into."""

    engine: Engine
    app: FdTun
    config: DeviceConfig
    events: list[TunnelEvent]

    def send(self, packet: IP) -> None:
        os.write(self.app.fileno(), bytes(packet))

    @property
    def handshakes(self) -> list[TunnelEvent]:
        return [event for event in self.events if isinstance(event, HandshakeCompleted)]

    async def receive(self, seconds: float = 2.0) -> bytes | None:
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        loop.add_reader(self.app.fileno(), lambda: arrived.done() or arrived.set_result(None))
        try:
            await asyncio.wait_for(arrived, seconds)
            return os.read(self.app.fileno(), 65536)
        except TimeoutError:
            return None
        finally:
            loop.remove_reader(self.app.fileno())


async def dropped(end: End, reason: Reason) -> None:
    """Until the end's datapath has dropped one packet for this reason."""
    async with asyncio.timeout(10):
        while end.engine.status().drops.get(reason) != 1:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def two_ends() -> AsyncIterator[tuple[End, End]]:
    """Client 10.0.0.1 and server 10.0.0.2, everything passing."""
    ends: list[End] = []
    for key in KEYS:
        app, tun = pair()
        events: list[TunnelEvent] = []
        engine = Engine(tun, on_event=events.append)
        await engine.start()
        engine.apply(PASS_ALL, ALL_PASS)
        ends.append(End(engine, app, DeviceConfig(private_key=key), events))
    client, server = ends
    client.config = replace(
        client.config,
        peers=(
            PeerConfig(
                public_key(KEYS[1]),
                endpoint=HostPort("127.0.0.1", server.engine.status().listen_port),
                allowed_ips=(ip_network("10.0.0.2/32"),),
            ),
        ),
    )
    server.config = replace(
        server.config, peers=(PeerConfig(public_key(KEYS[0]), allowed_ips=(ip_network("10.0.0.1/32"),)),)
    )
    for end in ends:
        await end.engine.configure(end.config)
    try:
        yield client, server
    finally:
        for end in ends:
            await end.engine.close()
            end.app.close()


def run(scenario: Callable[[End, End], Awaitable[None]]) -> None:
    """Run the scenario between two tunnels on uvloop, as the product does."""

    async def main() -> None:
        async with two_ends() as (client, server):
            await scenario(client, server)

    uvloop.run(main())


def test_a_port_that_cannot_be_taken_over_leaves_no_socket_behind() -> None:
    async def scenario(client: End, server: End) -> None:
        before, port = len(os.listdir("/proc/self/fd")), client.engine.status().listen_port
        client.engine._interface = "nosuch0"  # as when the underlying network has gone
        with pytest.raises(OSError, match="No such device"):
            await client.engine.configure(replace(client.config, listen_port=port + 1 if port < 65535 else port - 1))
        assert len(os.listdir("/proc/self/fd")) == before
        assert client.engine.status().listen_port == port

    run(scenario)


@pytest.mark.parametrize("again", ["replace_peers=true\n", "public_key={key}\nremove=true\n"])
def test_a_peer_removed_and_added_by_one_request_is_a_new_one(again: str) -> None:
    async def scenario(client: End, server: End) -> None:
        client.send(datagram(b"first"))
        assert await server.receive() == bytes(datagram(b"first"))
        key = public_key(KEYS[1]).hex()
        request = f"set=1\n{again.format(key=key)}public_key={key}\nallowed_ip=10.0.0.2/32\n"
        assert client.engine.uapi(parse_request(request.encode())) == "errno=0\n\n"
        (peer,) = client.engine.status().peers
        assert (peer.endpoint, peer.last_handshake_ns, peer.rx_bytes, peer.tx_bytes) == (None, 0, 0, 0)
        client.send(datagram(b"second"))
        await dropped(client, Reason.NO_ENDPOINT)
        assert await server.receive(0.05) is None, "the old session is gone"
        endpoint = f"127.0.0.1:{server.engine.status().listen_port}"
        request = f"set=1\npublic_key={key}\nendpoint={endpoint}\n"
        assert client.engine.uapi(parse_request(request.encode())) == "errno=0\n\n"
        client.send(datagram(b"third"))
        assert await server.receive(8) == bytes(datagram(b"third"))

    run(scenario)


def test_what_the_protocol_refuses_is_counted_too() -> None:
    async def scenario(client: End, server: End) -> None:
        nobody = (3).to_bytes(4, "little") + bytes(60)  # a cookie reply to a message that was never sent
        stranger = (1).to_bytes(4, "little") + bytes(144)  # an initiation without mac1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for message in (nobody, stranger, stranger):
                sock.sendto(message, ("127.0.0.1", server.engine.status().listen_port))
        async with asyncio.timeout(5):
            while server.engine.status().drops != {Reason.UNKNOWN_INDEX: 1, Reason.AUTH: 2}:
                await asyncio.sleep(0.01)

    run(scenario)


def datagram(text: bytes, *, back: bool = False) -> IP:
    source, destination = ("10.0.0.2", "10.0.0.1") if back else ("10.0.0.1", "10.0.0.2")
    return IP(src=source, dst=destination) / UDP(sport=1111, dport=2222) / text


def test_a_packet_waits_for_the_handshake_and_arrives_whole() -> None:
    async def scenario(client: End, server: End) -> None:
        client.send(datagram(b"first"))
        assert await server.receive() == bytes(datagram(b"first"))
        server.send(datagram(b"answer", back=True))
        assert await client.receive() == bytes(datagram(b"answer", back=True))
        assert client.handshakes == [HandshakeCompleted(public_key(KEYS[1]))]
        async with asyncio.timeout(5):  # a send is counted after it, when the answer may be here already
            while True:
                ours, theirs = client.engine.status().peers[0], server.engine.status().peers[0]
                if (ours.tx_bytes, ours.rx_bytes) == (theirs.rx_bytes, theirs.tx_bytes):
                    break
                await asyncio.sleep(0.01)
        assert ours.last_handshake_ns > 0
        assert theirs.endpoint is not None
        assert theirs.endpoint.port == client.engine.status().listen_port

    run(scenario)


def test_without_a_policy_nothing_passes() -> None:
    async def scenario(client: End, server: End) -> None:
        client.engine.apply(None)
        client.send(datagram(b"lost"))
        await dropped(client, Reason.NO_POLICY)
        assert await server.receive(0.05) is None

    run(scenario)


def test_a_new_policy_judges_the_next_packet_and_the_counters_go_on_by_rule_id() -> None:
    async def scenario(client: End, server: End) -> None:
        client.send(datagram(b"one"))
        assert await server.receive() is not None
        policy = Policy(
            State.ERROR,
            Platform.ANDROID,
            peer=Hop(ip_address("192.0.2.1"), 51820, Protocol.UDP),
            tunnel=Tunnel("wg0", (ip_address("10.0.0.1"),), (ip_address("10.0.0.2"),)),
        )
        blocking = compile_policy(policy)
        client.engine.apply(blocking.code, [rule.id for rule in blocking.rules])
        client.send(datagram(b"two"))
        await dropped(client, Reason.POLICY)
        assert await server.receive(0.05) is None
        client.engine.apply(PASS_ALL, ALL_PASS)
        client.send(datagram(b"three"))
        assert await server.receive() == bytes(datagram(b"three"))
        counts = {count.rule: count.packets for count in client.engine.status().verdicts}
        assert counts[ALL_PASS[0]] == 2
        assert sum(counts.values()) == 3

    run(scenario)


def test_the_engines_own_ping_is_answered_even_while_all_applications_are_blocked() -> None:
    async def scenario(client: End, server: End) -> None:
        source, gateway = ip_address("10.0.0.1"), ip_address("10.0.0.2")

        async def gateway_answers() -> None:
            request = IP(await server.receive())
            server.send(IP(src=request.dst, dst=request.src) / ICMP(type=0, id=request[ICMP].id, seq=request[ICMP].seq))

        client.engine.apply(compile_policy(Policy(State.ERROR, Platform.ANDROID)).code)
        answer = asyncio.ensure_future(gateway_answers())
        round_trip = await client.engine.probe(public_key(KEYS[1]), source, gateway, 2.0)
        await answer
        assert round_trip is not None
        assert 0 < round_trip < 2
        assert await client.receive(0.1) is None  # the reply is the engine's, not an application's
        assert await client.engine.probe(public_key(KEYS[1]), source, gateway, 0.1) is None

    run(scenario)


def test_an_applications_ping_is_answered_whatever_its_identifier_is_while_the_engine_does_not_ping() -> None:
    async def scenario(client: End, server: End) -> None:
        client.engine.apply(PASS_ALL, ALL_PASS)
        source, gateway = ip_address("10.0.0.1"), ip_address("10.0.0.2")
        assert await client.engine.probe(public_key(KEYS[1]), source, gateway, 0.1) is None
        request = IP(await server.receive())
        reply = bytes(IP(src=request.dst, dst=request.src) / ICMP(type=0, id=request[ICMP].id, seq=7))
        server.send(reply)
        assert await client.receive() == reply

    run(scenario)


def test_a_removed_peer_is_gone_for_packets_and_for_the_status() -> None:
    async def scenario(client: End, server: End) -> None:
        client.send(datagram(b"one"))
        assert await server.receive() is not None
        await client.engine.configure(replace(client.config, peers=()))
        client.send(datagram(b"two"))
        await dropped(client, Reason.NO_PEER)
        assert await server.receive(0.05) is None
        assert client.engine.status().peers == ()
        await client.engine.configure(client.config)
        client.send(datagram(b"three"))
        assert await server.receive() == bytes(datagram(b"three"))

    run(scenario)


def test_the_configuration_socket_shows_and_changes_the_running_tunnel() -> None:
    async def scenario(client: End, server: End) -> None:
        client.send(datagram(b"one"))
        assert await server.receive() is not None
        text = server.engine.uapi(Get())
        assert f"public_key={public_key(KEYS[0]).hex()}\n" in text
        port = client.engine.status().listen_port
        assert f"endpoint=127.0.0.1:{port}\n" in text
        assert "last_handshake_time_sec=0\n" not in text
        assert text.endswith("errno=0\n\n")
        request = f"set=1\npublic_key={public_key(KEYS[0]).hex()}\npersistent_keepalive_interval=25\n\n"
        assert server.engine.uapi(parse_request(request.encode())) == "errno=0\n\n"
        assert server.engine.config.peers[0].persistent_keepalive == 25
        assert server.engine.config.peers[0].endpoint == HostPort("127.0.0.1", port)

    run(scenario)


def test_a_port_that_is_taken_is_refused_and_nothing_changes() -> None:
    async def scenario(client: End, server: End) -> None:
        before = client.engine.config
        update = replace(update_from(before), listen_port=server.engine.status().listen_port, peers=())
        assert client.engine.uapi(update) == f"errno={-errno.EADDRINUSE}\n\n"
        assert client.engine.config == before
        assert client.engine.uapi(UapiError(errno.EINVAL, "no")) == f"errno={-errno.EINVAL}\n\n"
        client.send(datagram(b"still"))
        assert await server.receive() == bytes(datagram(b"still"))

    run(scenario)


def test_a_new_listen_port_takes_the_session_along() -> None:
    async def scenario(client: End, server: End) -> None:
        client.send(datagram(b"one"))
        assert await server.receive() is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        await client.engine.configure(replace(client.engine.config, listen_port=port))
        client.send(datagram(b"two"))
        assert await server.receive() == bytes(datagram(b"two"))
        endpoint = server.engine.status().peers[0].endpoint
        assert endpoint is not None
        assert endpoint.port == port
        assert client.handshakes == [HandshakeCompleted(public_key(KEYS[1]))]

    run(scenario)


def test_listen_port_0_asks_for_another_port_and_a_whole_configuration_with_it_keeps_the_one_there_is() -> None:
    async def scenario(client: End, server: End) -> None:
        before = client.engine.status().listen_port
        await client.engine.configure(replace(client.config, listen_port=0))
        assert client.engine.status().listen_port == before
        assert client.engine.uapi(parse_request(b"set=1\nlisten_port=0\n")) == "errno=0\n\n"
        assert client.engine.status().listen_port not in (0, before)
        client.send(datagram(b"by the new one"))
        assert await server.receive() == bytes(datagram(b"by the new one"))

    run(scenario)


def test_a_link_local_endpoint_keeps_its_interface() -> None:
    async def scenario(client: End, server: End) -> None:
        key = public_key(KEYS[1])

        def endpoint(text: str) -> str:
            request = f"set=1\npublic_key={key.hex()}\nendpoint={text}\n"
            return client.engine.uapi(parse_request(request.encode()))

        assert endpoint("[fe80::1%lo]:7") == "errno=0\n\n"
        (peer,) = client.engine.status().peers
        assert peer.endpoint == Endpoint(IPv6Address("fe80::1"), 7, socket.if_nametoindex("lo"))
        assert client.engine.config.peers[0].endpoint == HostPort("fe80::1%lo", 7)
        assert endpoint("[fe80::2%no-such-one]:7") == f"errno={-errno.ENODEV}\n\n"
        assert client.engine.status().peers == (peer,)

    run(scenario)


def test_an_event_that_fails_takes_no_other_of_its_batch_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(client: End, server: End) -> None:
        event, failed = server.engine._event, 0

        def fails_once(which: Event, time: float) -> None:
            nonlocal failed
            failed += 1
            if failed == 1:
                raise RuntimeError("a fault of ours")
            event(which, time)

        monkeypatch.setattr(server.engine, "_event", fails_once)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for _ in range(3):  # cookie replies to nobody, which Python judges
                stranger.sendto(b"\3\0\0\0" + bytes(60), ("127.0.0.1", server.engine.status().listen_port))
        async with asyncio.timeout(10):
            while failed < 3:
                await asyncio.sleep(0.01)
        assert server.engine.status().drops[Reason.UNKNOWN_INDEX] == 2
        client.send(datagram(b"all the same"))
        assert await server.receive() == bytes(datagram(b"all the same"))

    run(scenario)


def test_a_peer_that_has_moved_is_not_taken_back_when_its_source_is_cleared() -> None:
    async def scenario(client: End, server: End) -> None:
        link = client.engine._links[public_key(KEYS[1])]
        former = link.peer.endpoint
        assert former is not None
        moved = replace(former, port=former.port % 65535 + 1)
        link.native.endpoint = moved  # as the datapath does, by a packet of the peer's
        client.engine._carry_out(EndpointChanged(link.peer, former), 0.0)
        assert (link.native.endpoint, link.peer.endpoint) == (moved, moved)

    run(scenario)


def test_at_the_end_nobody_holds_a_session() -> None:
    peers: list[Peer] = []

    async def scenario(client: End, server: End) -> None:
        client.send(datagram(b"one"))
        assert await server.receive() is not None
        peers.extend([*client.engine._device.peers.values(), *server.engine._device.peers.values()])
        assert all(peer.sessions() for peer in peers)

    run(scenario)
    assert len(peers) == 2
    assert not any(peer.sessions() for peer in peers)


def test_a_name_that_does_not_resolve_changes_nothing_and_is_named() -> None:
    async def scenario(client: End, server: End) -> None:
        peer = replace(client.config.peers[0], endpoint=HostPort("no-such-host.invalid", 51820))
        before = client.engine.config
        with pytest.raises(ResolveError, match=r"no-such-host\.invalid"):
            await client.engine.configure(replace(client.config, peers=(peer,)))
        assert client.engine.config == before

    run(scenario)


def test_the_owner_is_told_when_the_interface_goes_away() -> None:
    async def scenario(client: End, server: End) -> None:
        client.app.close()
        async with asyncio.timeout(10):
            while not any(isinstance(event, Stopped) for event in client.events):
                await asyncio.sleep(0.01)

    run(scenario)

"""One TUN, one native datapath, one WireGuard device, on the running event loop. The only place where they meet.

The datapath's thread moves the packets; this module never sees one. What it does, in order of events:

* `start()`: sockets, datapath (corked: without a policy everything is dropped), event descriptor, link watch.
* `apply(code)`: publish a policy program. When it returns, no packet is judged by the former one any more.
* `configure(config)`: keys, peers, endpoints, allowed IPs. Everything that can fail is done first; the rest is one
  published snapshot.
* The datapath's events go into the sans-IO device: handshake messages, "this peer needs a session", "traffic has set a
  deadline". After each of them `_pump()` carries out what the device wants: datagrams, sessions, keepalives, a timer.

Everything here runs on the event loop's thread.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from engine.tunnel.clock import now, wall
from engine.tunnel.echo import IPAddress, echo_reply, echo_request
from engine.tunnel.events import (
    HandshakeCompleted,
    HandshakeGivenUp,
    PeerStatus,
    RuleCount,
    Stopped,
    TunnelEvent,
    TunnelStatus,
    Unanswered,
)
from engine.tunnel.link import LinkState, LinkWatch, gso_max_size, set_gso_max_size
from engine.tunnel.resolve import resolve
from engine.tunnel.sockets import Sockets, open_sockets, set_mark
from engine.wg import events as wg
from engine.wg.config import DeviceConfig, HostPort
from engine.wg.device import Device as WgDevice
from engine.wg.peer import Peer as WgPeer
from engine.wg.uapi import Get, PeerFacts, UapiError, Update, apply_update, render_get, reply
from native.datapath import Datapath, Event
from native.datapath import Peer as NativePeer
from native.endpoint import NOWHERE, Endpoint
from native.reasons import Reason
from native.ring import EventKind
from tun.device import Device as TunDevice

log = logging.getLogger(__name__)

EVENTS_PER_WAKEUP = 64


@dataclass(eq=False, slots=True)
class _Link:
    """The two halves of one peer: its protocol state (Python) and its place in the datapath (native).

    `where` is the endpoint `packed` as the configuration has it: most peers do not move between two looks.
    """

    peer: WgPeer
    native: NativePeer
    packed: bytes = NOWHERE
    where: HostPort | None = None


class Tunnel:
    """See the head of this module.

    `fwmark` marks the outer packets until a configuration says otherwise; `offload=False` sends and receives one
    datagram a system call (to compare, or to debug); `on_event` is called on the loop's thread.
    """

    def __init__(
        self,
        tun: TunDevice,
        *,
        fwmark: int = 0,
        offload: bool = True,
        on_event: Callable[[TunnelEvent], None] = lambda event: None,
    ) -> None:
        self._tun = tun
        self._on_event = on_event
        self._offload = offload
        self._config = DeviceConfig(fwmark=fwmark)
        self._device = WgDevice(random=os.urandom, offload=True, lanes=len(tun.queues()))
        self._datapath = Datapath(*tun.queues(), vnet_hdr=tun.vnet_hdr, tun_offloads=tun.offloads, mtu=tun.mtu)
        self._sockets: Sockets | None = None
        self._interface = ""
        self._links: dict[bytes, _Link] = {}
        self._by_id: dict[int, _Link] = {}
        self._code: bytes | None = None
        self._rules: tuple[str, ...] = ()
        self._counted: Counter[str] = Counter()
        self._counted_bytes: Counter[str] = Counter()
        self._dropped: Counter[Reason] = Counter()  # by the protocol; the datapath counts its own
        self._watch: LinkWatch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pings: dict[tuple[IPAddress, int], asyncio.Future[float]] = {}  # by gateway and sequence number
        self._ping_ident = int.from_bytes(os.urandom(2), "big")
        self._ping_sequence = 0
        self._closed = False

    async def start(self) -> None:
        """Open sockets and start the datapath's thread. OSError when the sockets cannot be had."""
        loop = asyncio.get_running_loop()
        self._open_sockets(self._config)
        loop.add_reader(self._datapath.event_fd, self._events)
        self._watch = LinkWatch(self._tun.name, self._link_changed)
        if self._watch.state is not None:
            self._link_changed(self._watch.state)
        self._datapath.start()

    async def close(self) -> None:
        """Stop the thread, wipe all sessions, close the sockets. The TUN itself stays its owner's."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.close()
        asyncio.get_running_loop().remove_reader(self._datapath.event_fd)
        self._datapath.stop()
        self._datapath.close()
        if self._sockets is not None:
            self._sockets.close()
        for peer in list(self._device.peers.values()):
            self._device.remove_peer(peer)  # the protocol's references to the sessions
        for ping in self._pings.values():
            ping.cancel()

    # The policy

    def apply(self, code: bytes | None, rules: Sequence[str] = ()) -> None:
        """Put a compiled policy in force (None: drop everything); `rules` are its rule ids, for the counters.

        On return no packet is judged by the former policy any more (ATOM-1).
        """
        self._publish(code, tuple(rules))

    def _publish(self, code: bytes | None, rules: tuple[str, ...]) -> None:
        routes = [
            (network, self._links[peer.public_key].native)
            for network, peer in self._device.allowed_ips
            if peer.public_key in self._links
        ]
        final = self._datapath.publish(code, routes)
        self._count(final, self._rules)
        self._code, self._rules = code, rules

    def _count(self, counts: Sequence[tuple[int, int]], rules: tuple[str, ...]) -> None:
        for rule, (packets, octets) in zip(rules, counts, strict=False):
            self._counted[rule] += packets
            self._counted_bytes[rule] += octets

    # The WireGuard configuration

    @property
    def config(self) -> DeviceConfig:
        """The configuration as it is: the port really bound, the endpoints to which peers have roamed."""
        port = self._sockets.port if self._sockets is not None else 0
        facts = self._datapath.peers()
        roamed = {}
        for key, link in self._links.items():
            packed, _ = facts[link.native.id]
            if packed != link.packed:
                where = _host_port(Endpoint.unpack(packed))
                link.packed, link.where = packed, link.where if link.where == where else where
            roamed[key] = link.where
        return replace(self._config, listen_port=port).with_endpoints(roamed)

    async def configure(self, config: DeviceConfig) -> None:
        """Replace the whole configuration; listen port 0 keeps the one there is.

        Hostnames are looked up here: ResolveError, and nothing has changed.
        """
        names = [peer for peer in config.peers if peer.endpoint is not None and peer.endpoint.address is None]
        found: dict[bytes, HostPort | None] = {}
        for peer in names:
            assert peer.endpoint is not None
            found[peer.public_key] = _host_port(await resolve(peer.endpoint.host, peer.endpoint.port))
        port = config.listen_port or self.config.listen_port
        self._replace(replace(config, listen_port=port).with_endpoints(found))

    def uapi(self, request: Get | Update | UapiError) -> str:
        """Answer one request of the configuration socket."""
        try:
            if isinstance(request, UapiError):
                raise request
            if isinstance(request, Get):
                return reply(0, render_get(self.config, self._facts()))
            removed = {change.public_key for change in request.peers if change.remove}
            self._replace(apply_update(self.config, request), set(self._links) if request.replace_peers else removed)
        except UapiError as error:
            log.error("configuration request refused: %s", error)
            return reply(error.errno)
        except OSError as error:
            log.error("configuration request failed: %s", error)
            return reply(error.errno or errno.EIO)
        return reply()

    def _facts(self) -> dict[bytes, PeerFacts]:
        native = self._datapath.peers()
        facts = {}
        for key, link in self._links.items():
            traffic = native[link.native.id][1]
            facts[key] = PeerFacts(_handshake_ns(link.peer), traffic.rx_bytes + link.peer.rx_bytes, traffic.tx_bytes)
        return facts

    def _replace(self, config: DeviceConfig, removed: Set[bytes] = frozenset()) -> None:
        """Go from the present configuration to `config`; every address is known by now.

        A peer of `removed` that `config` has (again) is a new one: without session, endpoint or counters of the old.
        """
        present = self.config
        own = config.public_key
        if any(peer.public_key == own for peer in config.peers):  # it is ignored, as the kernel does
            config = replace(config, peers=tuple(peer for peer in config.peers if peer.public_key != own))
        there = {key: link.where for key, link in self._links.items() if key not in removed}
        places = {
            peer.public_key: _endpoint(peer.endpoint)
            for peer in config.peers
            if peer.endpoint is not None and there.get(peer.public_key) != peer.endpoint
        }
        self._open_sockets(config)  # the last step that can fail
        if config.private_key != present.private_key:
            self._device.set_private_key(config.private_key)
            self._datapath.set_public_key(self._device.public_key)
        wanted = {peer.public_key for peer in config.peers}
        gone = [self._links.pop(key) for key in list(self._links) if key not in wanted]
        before = {peer.public_key: peer for peer in present.peers if peer.public_key not in removed}
        for key in removed & wanted & self._links.keys():
            self._forget(self._links.pop(key))
        for peer in config.peers:
            link = self._links.get(peer.public_key)
            if link is None:
                added = self._device.add_peer(peer.public_key)
                assert added is not None, "our own key was left out above"
                link = _Link(added, self._datapath.add_peer())
                self._links[peer.public_key] = link
                self._by_id[link.native.id] = link
            if before.get(peer.public_key) == peer:
                continue
            if peer.endpoint is not None and link.where != peer.endpoint:
                endpoint = places[peer.public_key]
                link.native.endpoint = endpoint
                link.packed, link.where = endpoint.pack(), peer.endpoint
                self._device.set_endpoint(link.peer, endpoint)
            self._device.set_preshared_key(link.peer, peer.preshared_key)
            self._device.set_allowed_ips(link.peer, peer.allowed_ips)
            self._device.set_persistent_keepalive(link.peer, peer.persistent_keepalive)
        self._config = config
        self._publish(self._code, self._rules)
        for link in gone:
            self._forget(link)
        self._pump()

    def _forget(self, link: _Link) -> None:
        self._device.remove_peer(link.peer)
        self._datapath.remove_peer(link.native)
        del self._by_id[link.native.id]

    def _open_sockets(self, config: DeviceConfig) -> None:
        """Bring port and mark to what `config` says (port 0: another one); OSError, and nothing has changed."""
        present = self._sockets
        if present is not None and config.listen_port == present.port:
            if config.fwmark != present.fwmark:
                for sock in present.all():
                    set_mark(sock, config.fwmark)
                self._sockets = replace(present, fwmark=config.fwmark)
            return
        fresh = open_sockets(config.listen_port, config.fwmark, len(self._tun.queues()))
        try:
            fresh.bind_to(self._interface)
            self._datapath.set_sockets(*fresh.pairs(), offload=self._offload)
        except OSError:
            fresh.close()
            raise
        self._sockets = fresh
        if present is not None:
            present.close()

    def bind_to(self, interface: str) -> None:
        """Send and receive outer packets by this interface only; empty: by whatever the routes say. OSError."""
        self._interface = interface
        if self._sockets is not None:
            self._sockets.bind_to(interface)

    def _link_changed(self, state: LinkState) -> None:
        self._datapath.set_mtu(state.mtu)
        with contextlib.suppress(OSError):  # an optimisation; a kernel may not know it
            set_gso_max_size(self._tun.name, gso_max_size(state.mtu))

    # The protocol's driver

    def _events(self) -> None:
        """The datapath has something to say."""
        time = now()
        for event in self._datapath.events(EVENTS_PER_WAKEUP):
            try:
                self._event(event, time)
            except Exception:  # the others of the batch come only once, and are not to be lost for this one
                log.exception("the datapath's event %s failed", event.kind.name)
        self._pump()

    def _event(self, event: Event, time: float) -> None:
        if event.kind is EventKind.MESSAGE:
            assert event.endpoint is not None
            self._device.datagram_received(event.data, event.endpoint, time, proven=event.proven)
            return
        if event.kind is EventKind.STOPPED:
            self._on_event(Stopped(event.error))
            return
        link = self._by_id.get(event.peer_id)
        if link is None:
            return  # removed meanwhile
        self._follow(link)
        if event.kind is EventKind.HANDSHAKE:
            if not self._device.handshake_wanted(link.peer, time):
                link.native.handshake_done()
        elif event.kind is EventKind.CONFIRMED:
            self._device.session_confirmed(link.peer, time)
        elif event.kind is EventKind.TIMERS:
            self._traffic(link, time)
        elif event.kind is EventKind.PROBE:
            answer = echo_reply(event.data)
            ping = self._pings.get(answer) if answer is not None else None
            if ping is not None and not ping.done():
                ping.set_result(time)

    def _follow(self, link: _Link) -> None:
        """The datapath lets a peer roam by its data; the handshakes have to go there too."""
        endpoint = link.native.endpoint
        if endpoint is not None:
            self._device.set_endpoint(link.peer, endpoint)

    def _traffic(self, link: _Link, time: float) -> None:
        self._follow(link)
        if not self._device.traffic(link.peer, link.native.traffic(), time):
            link.native.disarm()
            self._device.traffic(link.peer, link.native.traffic(), time)  # what passed in between
        if link.native.traffic().unanswered_sent_ns:
            self._on_event(Unanswered(link.peer.public_key))

    def _pump(self) -> None:
        """Do what the device wants now; arm one timer for what it wants later."""
        time = now()
        while (event := self._device.next_event()) is not None:
            self._carry_out(event, time)
        for datagram in self._device.datagrams_to_send(time, wall()):
            link = self._links.get(datagram.peer.public_key) if datagram.peer is not None else None
            native = link.native if link is not None else None
            error = self._datapath.send(datagram.endpoint, datagram.data, native)
            if error:
                log.debug("sending to %s failed: %s", datagram.endpoint, os.strerror(error))
        deadline = self._device.next_timer()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - time), self._timer_due)

    def _timer_due(self) -> None:
        self._timer = None
        self._device.handle_timer(now())
        self._pump()

    def _carry_out(self, event: wg.Event, time: float) -> None:
        """One wish of the protocol."""
        if isinstance(event, wg.PacketDropped):
            self._dropped[event.reason] += 1
            log.debug("dropped: %s", event.reason)
            return
        link = self._links.get(event.peer.public_key)
        if link is None:
            return
        if isinstance(event, wg.SessionReady):
            link.native.install(event.session)
            self._on_event(HandshakeCompleted(event.peer.public_key))
        elif isinstance(event, wg.KeepaliveWanted):
            if event.confirms is None or not event.confirms.sent:
                link.native.keepalive()
        elif isinstance(event, wg.TrafficWanted):
            self._traffic(link, time)
        elif isinstance(event, wg.EndpointChanged):
            here = link.native.endpoint
            if event.endpoint.local is None and here is not None and here != event.endpoint:
                self._device.set_endpoint(link.peer, here)  # it has moved meanwhile, by its data
            else:
                link.native.endpoint = event.endpoint
        elif isinstance(event, wg.KeysErased):
            link.native.erase_keys()
        elif isinstance(event, wg.HandshakeGivenUp):
            link.native.flush_staged()
            link.native.handshake_done()
            self._on_event(HandshakeGivenUp(event.peer.public_key))

    # Looking at it

    def allow_fragments(self, allow: bool) -> None:
        """Let outer packets be fragmented on their way (as they are from the start), or be lost if too large."""
        if self._sockets is not None:
            self._sockets.allow_fragments(allow)

    async def probe(
        self, peer: bytes, source: IPAddress, gateway: IPAddress, timeout: float, size: int = 0
    ) -> float | None:
        """Ping the gateway through the tunnel: the round trip in seconds, None when nothing came within `timeout`.

        `size`: of the IP packet, in bytes; at least what an echo request takes.
        """
        link = self._links[peer]
        self._ping_sequence = self._ping_sequence % 0xFFFF + 1
        awaited = gateway, self._ping_sequence
        reply_time: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._pings[awaited] = reply_time
        self._datapath.expect_probe(self._ping_ident)
        try:
            begin = now()
            link.native.probe(echo_request(source, gateway, self._ping_ident, self._ping_sequence, size))
            return await asyncio.wait_for(reply_time, timeout) - begin
        except TimeoutError:
            return None
        finally:
            del self._pings[awaited]
            if not self._pings and not self._closed:  # others' pings may have this identifier: their answers are theirs
                self._datapath.expect_probe(None)

    def turns(self) -> tuple[int, ...]:
        """How many turns each thread of the datapath has made; it is asked for another. The same soon: it hangs."""
        made = self._datapath.turns()
        self._datapath.wake()
        return made

    def status(self) -> TunnelStatus:
        """The tunnel at this moment."""
        counted, octets_counted = Counter(self._counted), Counter(self._counted_bytes)
        for rule, (packets, octets) in zip(self._rules, self._datapath.verdicts(), strict=False):
            counted[rule] += packets
            octets_counted[rule] += octets
        facts = self._datapath.peers()
        peers = []
        for key, link in self._links.items():
            packed, traffic = facts[link.native.id]
            peers.append(
                PeerStatus(
                    public_key=key,
                    endpoint=Endpoint.unpack(packed),
                    last_handshake_ns=_handshake_ns(link.peer),
                    # Received handshake messages pass through Python alone; sent ones the datapath has counted.
                    rx_bytes=traffic.rx_bytes + link.peer.rx_bytes,
                    tx_bytes=traffic.tx_bytes,
                    unanswered_since=traffic.unanswered_sent_ns / 1e9,
                )
            )
        return TunnelStatus(
            interface=self._tun.name,
            mtu=self._tun.mtu,
            listen_port=self._sockets.port if self._sockets is not None else 0,
            fwmark=self._sockets.fwmark if self._sockets is not None else 0,
            peers=tuple(peers),
            verdicts=tuple(RuleCount(rule, counted[rule], octets_counted[rule]) for rule in counted),
            drops=dict(self._dropped + Counter(self._datapath.drops())),
            offloads=self._datapath.offloads(),
            statistics=self._datapath.statistics(),
        )


def _handshake_ns(peer: WgPeer) -> int:
    seconds, nanoseconds = peer.last_handshake or (0, 0)
    return seconds * 10**9 + nanoseconds


def _endpoint(where: HostPort) -> Endpoint:
    """OSError: its scope names no interface."""
    address = where.address
    assert address is not None, "names are looked up before"
    if isinstance(address, IPv4Address) or not address.scope_id:
        return Endpoint(address, where.port)
    scope = address.scope_id
    try:
        index = int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
    except OSError:
        raise OSError(errno.ENODEV, f"{where.host}: there is no interface {scope}") from None
    return Endpoint(IPv6Address(address.packed), where.port, index)


def _host_port(endpoint: Endpoint | None) -> HostPort | None:
    if endpoint is None:
        return None
    scope = f"%{endpoint.scope}" if endpoint.scope else ""
    return HostPort(f"{endpoint.host}{scope}", endpoint.port)

"""One TUN device, its outer sockets, and the native threads that carry packets between them (native/src/datapath.c).

Order of events: Datapath -> set_sockets, add_peer, publish (any order, any time) -> start -> ... -> stop -> close.
Until a program is published everything is dropped. What needs a decision comes up as an Event: `event_fd` becomes
readable, events() fetches. All calls are quick and release the GIL; those that replace something (publish,
set_sockets, install, remove_peer) wait for the end of the turn that each thread is in: less than a millisecond, or a
few while a send buffer is full.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

from native._native import ffi, lib
from native.endpoint import ENDPOINT_LEN, Endpoint
from native.reasons import Reason
from native.ring import EventKind
from native.session import Session

_ROOM = 4096
"""Rules whose counts are read; no policy has as many."""


@dataclass(frozen=True)
class Event:
    """What the datapath tells; native/src/ring.h says what comes with each kind.

    peer_id: Peer.id, or 0. error: an errno (STOPPED). depth: how many events wait behind this one. proven: a
    handshake message that had to bring a cookie, and did. endpoint, data: where a handshake MESSAGE came from and its
    bytes; of a PROBE, data is the inner packet.
    """

    kind: EventKind
    peer_id: int
    error: int
    depth: int
    proven: bool
    endpoint: Endpoint | None
    data: bytes


class Traffic(NamedTuple):
    """A peer's counters, as kernel WireGuard counts, and times (ns of the boot-time clock, 0: never)."""

    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    last_data_sent_ns: int
    last_data_received_ns: int
    last_sent_ns: int
    last_received_ns: int
    unanswered_sent_ns: int
    """When the first data packet was sent since anything authentic was received; 0: none."""
    unacknowledged_received_ns: int
    """When the first data packet was received since anything was sent; 0: none."""


_TRAFFIC = struct.Struct(f"={len(Traffic._fields)}Q")  # mh_traffic
_PEER_FACTS = struct.Struct(f"=I{ENDPOINT_LEN}s4x{len(Traffic._fields)}Q")  # mh_peer_facts
assert _PEER_FACTS.size == ffi.sizeof("mh_peer_facts")


class Peer:
    """A peer of one datapath, made by Datapath.add_peer(). ValueError after it was removed."""

    __slots__ = ("_datapath", "_handle", "id")

    def __init__(self, datapath: Datapath, handle: Any) -> None:
        self._datapath = datapath
        self._handle: Any = handle
        self.id: int = lib.mh_peer_id(handle)

    @property
    def handle(self) -> Any:
        """The `mh_peer *`, while the peer exists."""
        if self._handle is None:
            raise ValueError(f"peer {self.id} was removed")
        return self._handle

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it is; follows the newest authentic packet."""
        native = ffi.new("mh_endpoint *")
        lib.mh_peer_get_endpoint(self.handle, native)
        return Endpoint.unpack(bytes(ffi.buffer(native)))

    @endpoint.setter
    def endpoint(self, endpoint: Endpoint | None) -> None:
        lib.mh_peer_set_endpoint(self.handle, _native_endpoint(endpoint))

    def install(self, session: Session) -> None:
        """Take a session into use.

        As initiator it becomes current and staged packets leave under it; as responder it is next until the first
        packet under it arrives (Event CONFIRMED). OSError EEXIST: its local index is in use.
        """
        _check(lib.mh_peer_install_session(self._datapath.handle, self.handle, session.handle), "install a session")

    def erase_keys(self) -> None:
        """Forget every session; staged packets stay."""
        lib.mh_peer_erase_keys(self._datapath.handle, self.handle)

    def flush_staged(self) -> int:
        """Drop what waits for a handshake (STAGE_EXPIRED); returns how many packets."""
        return int(lib.mh_peer_drop_staged(self._datapath.handle, self.handle))

    def keepalive(self) -> bool:
        """Send an empty packet under the current session. False: there is none, or the send failed (counted)."""
        return bool(lib.mh_peer_send_packet(self._datapath.handle, self.handle, ffi.NULL, 0) == 0)

    def probe(self, packet: bytes) -> bool:
        """Send the engine's own inner packet, past the policy; without a session it waits for one (Event HANDSHAKE).

        False: not sent and not waiting (no endpoint, longer than the MTU, or the send failed).
        """
        error = lib.mh_peer_send_packet(self._datapath.handle, self.handle, packet, len(packet))
        return error in (0, errno.ENOKEY)

    def handshake_done(self) -> None:
        """Allow the next HANDSHAKE event (install() does, too)."""
        lib.mh_peer_handshake_done(self.handle)

    def disarm(self) -> None:
        """Allow the next TIMERS event. Call it before traffic() when evaluating timers."""
        lib.mh_peer_disarm(self.handle)

    def traffic(self) -> Traffic:
        """Counters and times as of now."""
        native = ffi.new("mh_traffic *")
        lib.mh_peer_get_traffic(self.handle, native)
        return Traffic._make(_TRAFFIC.unpack(ffi.buffer(native)))


class Datapath:
    """The data path of one device. Methods may be called from any thread."""

    def __init__(self, *queues: int, vnet_hdr: bool, tun_offloads: int, mtu: int) -> None:
        """Take duplicates of the TUN's descriptors, made non-blocking: 1 to 16 queues, each of which gets a thread.

        vnet_hdr: reads and writes carry a virtio header. tun_offloads: the TUN_F_* bits TUNSETOFFLOAD accepted.
        OSError: a bad descriptor, no memory. ValueError: mtu outside 0..65535.
        """
        _check_mtu(mtu)
        error = ffi.new("int *")
        handle = lib.mh_datapath_new(queues, len(queues), vnet_hdr, tun_offloads, mtu, error)
        if handle == ffi.NULL:
            raise OSError(error[0], f"cannot make a datapath: {os.strerror(error[0])}")
        self._handle: Any = handle
        self._queues = len(queues)
        self._peers: dict[int, Peer] = {}
        self.event_fd: int = lib.mh_datapath_event_fd(handle)

    @property
    def handle(self) -> Any:
        """The `mh_datapath *`, until close()."""
        if self._handle is None:
            raise ValueError("this datapath is closed")
        return self._handle

    def start(self) -> None:
        """Start the threads. OSError EBUSY: they run."""
        _check(lib.mh_datapath_start(self.handle), "start the datapath")

    def stop(self) -> None:
        """End the threads and wait for them; fine if none runs."""
        lib.mh_datapath_stop(self.handle)

    def turn(self) -> None:
        """Carry what is there in both directions, once, in this thread (tests). OSError: EBUSY, or the TUN is gone."""
        _check(lib.mh_datapath_turn(self.handle), "carry packets")

    def close(self) -> None:
        """Stop and free everything; sessions lose the datapath's references. The sockets stay open."""
        if self._handle is not None:
            for peer in self._peers.values():
                peer._handle = None
            lib.mh_datapath_free(self._handle)
            self._handle = None

    def __del__(self) -> None:
        """Close, if nobody did."""
        if getattr(self, "_handle", None) is not None:
            self.close()

    def set_sockets(self, *pairs: tuple[int, int], offload: bool = True) -> None:
        """Use these sockets, IPv4 and IPv6 (-1: none of that family), a pair for each queue of the TUN.

        On return the replaced ones may be closed.

        offload: UDP_SEGMENT and UDP_GRO where the kernel has them. OSError: not such sockets.
        """
        if len(pairs) != self._queues:
            raise ValueError(f"{len(pairs)} pairs of sockets for {self._queues} queues")
        udp4, udp6 = zip(*pairs, strict=True)
        _check(lib.mh_datapath_set_sockets(self.handle, udp4, udp6, offload), "use these UDP sockets")

    def set_mtu(self, mtu: int) -> None:
        """The tunnel's MTU, beyond which nothing is padded."""
        _check_mtu(mtu)
        lib.mh_datapath_set_mtu(self.handle, mtu)

    def set_public_key(self, key: bytes | None) -> None:
        """Drop initiations and responses whose sender does not know this key of ours (32 bytes; mac1) at once.

        While many events wait, they must bring a cookie too (mac2) and are `proven` then; to others one is sent.
        None: all of them become events. ValueError: not 32 bytes.
        """
        if key is not None and len(key) != 32:
            raise ValueError("a public key has 32 bytes")
        error = lib.mh_datapath_set_public_key(self.handle, ffi.NULL if key is None else key)
        _check(error, "check handshake messages")

    def publish(
        self, program: bytes | None, routes: Sequence[tuple[IPv4Network | IPv6Network, Peer]]
    ) -> list[tuple[int, int]]:
        """Put a verdict program (None: no policy, everything is dropped) and the allowed IPs into force, as one.

        On return no packet is judged by the former program any more. Returns the former program's final counts:
        (packets, bytes) by rule. ValueError: not a program; the former one stays in force.
        """
        prefixes = ffi.new("mh_prefix[]", len(routes))
        for prefix, (network, peer) in zip(prefixes, routes, strict=True):
            if self._peers.get(peer.id) is not peer:
                raise ValueError(f"peer {peer.id} is not of this datapath")
            prefix.family = network.version
            prefix.cidr = network.prefixlen
            packed = network.network_address.packed
            ffi.memmove(prefix.addr, packed, len(packed))
            prefix.owner = ffi.cast("void *", peer.handle)
        packets, counted = ffi.new("uint64_t[]", _ROOM), ffi.new("uint64_t[]", _ROOM)
        code = ffi.NULL if program is None else ffi.from_buffer("uint8_t[]", program)
        rules = lib.mh_datapath_publish(
            self.handle, code, 0 if program is None else len(program), prefixes, len(routes), packets, counted, _ROOM
        )
        if rules == -errno.EINVAL:
            raise ValueError("this is not a verdict program")
        _check(-rules if rules < 0 else 0, "publish a policy")
        return [(packets[rule], counted[rule]) for rule in range(min(rules, _ROOM))]

    def add_peer(self) -> Peer:
        """A new peer, without endpoint, routes or session."""
        handle = lib.mh_datapath_add_peer(self.handle)
        if handle == ffi.NULL:
            raise MemoryError("no memory for a peer")
        peer = Peer(self, handle)
        self._peers[peer.id] = peer
        return peer

    def peers(self) -> dict[int, tuple[bytes, Traffic]]:
        """Of every peer, by its id: where it is (`Endpoint.unpack` reads it) and its counters; one native call."""
        count = len(self._peers)
        native = ffi.new("mh_peer_facts[]", count)
        told = lib.mh_datapath_peers(self.handle, native, count)
        facts = _PEER_FACTS.iter_unpack(ffi.buffer(native, min(told, count) * _PEER_FACTS.size))
        return {number: (endpoint, Traffic._make(traffic)) for number, endpoint, *traffic in facts}

    def remove_peer(self, peer: Peer) -> None:
        """Forget a peer and its sessions; its routes lead nowhere from now on. Publish without it soon."""
        if self._peers.get(peer.id) is not peer:
            raise ValueError(f"peer {peer.id} is not of this datapath")
        lib.mh_datapath_remove_peer(self.handle, peer.handle)
        del self._peers[peer.id]
        peer._handle = None

    def events(self, limit: int = 64) -> list[Event]:
        """Take at most so many events. When fewer come, event_fd is quiet again."""
        events: list[Event] = []
        native = ffi.new("mh_event *")
        while len(events) < limit and lib.mh_datapath_event(self.handle, native):
            endpoint = Endpoint.unpack(bytes(ffi.buffer(ffi.addressof(native.endpoint))))
            data = bytes(ffi.buffer(native.data, native.len))
            kind = EventKind(native.kind)
            events.append(Event(kind, native.peer, native.error, native.depth, bool(native.proven), endpoint, data))
        return events

    def send(self, endpoint: Endpoint, data: bytes, peer: Peer | None = None) -> int:
        """Send a handshake or cookie message (at most 1500 bytes), counted for the peer. Returns 0 or an errno."""
        who = ffi.NULL if peer is None else peer.handle
        return int(lib.mh_datapath_send(self.handle, _native_endpoint(endpoint), data, len(data), who))

    def expect_probe(self, ident: int | None) -> None:
        """Echo replies with this identifier that arrive by the tunnel become Event PROBE; None: no more."""
        if ident is not None and not 0 <= ident < 1 << 16:
            raise ValueError(f"an echo identifier has 16 bits, not {ident}")
        lib.mh_datapath_expect_probe(self.handle, -1 if ident is None else ident)

    def verdicts(self) -> list[tuple[int, int]]:
        """(packets, bytes) by rule of the program in force."""
        packets, counted = ffi.new("uint64_t[]", _ROOM), ffi.new("uint64_t[]", _ROOM)
        rules = lib.mh_datapath_verdicts(self.handle, packets, counted, _ROOM)
        return [(packets[rule], counted[rule]) for rule in range(min(rules, _ROOM))]

    def drops(self) -> dict[Reason, int]:
        """How many packets were dropped for each reason, since the datapath was made; zeros left out."""
        counts = ffi.new("uint64_t[]", len(Reason))
        lib.mh_datapath_drops(self.handle, counts, len(Reason))
        return {reason: counts[reason] for reason in Reason if counts[reason]}

    def offloads(self) -> dict[str, bool]:
        """What is in use: vnet_hdr, tso4, tso6, uso4, uso6, udp_segment, udp_gro."""
        native = ffi.new("mh_offloads *")
        lib.mh_datapath_offloads(self.handle, native)
        return {name: bool(getattr(native, name)) for name, _ in ffi.typeof("mh_offloads").fields}

    def wake(self) -> None:
        """Ask each thread for a turn: each of `turns()` will have risen soon, if its thread is alive."""
        lib.mh_datapath_wake(self.handle)

    def turns(self) -> tuple[int, ...]:
        """How many turns each thread has made."""
        counts = ffi.new("uint64_t[]", self._queues)
        lib.mh_datapath_turns(self.handle, counts, self._queues)
        return tuple(counts)

    def statistics(self) -> dict[str, int]:
        """System calls, turns, and inner packets and bytes each way; packets / calls is the average burst."""
        native = ffi.new("mh_statistics *")
        lib.mh_datapath_statistics(self.handle, native)
        return {name: int(getattr(native, name)) for name, _ in ffi.typeof("mh_statistics").fields}


def _native_endpoint(endpoint: Endpoint | None) -> Any:
    native = ffi.new("mh_endpoint *")
    if endpoint is not None:
        ffi.memmove(native, endpoint.pack(), ENDPOINT_LEN)
    return native


def _check(error: int, what: str) -> None:
    if error:
        raise OSError(error, f"cannot {what}: {os.strerror(error)}")


def _check_mtu(mtu: int) -> None:
    if not 0 <= mtu <= 65535:
        raise ValueError(f"an MTU is 0 to 65535, not {mtu}")

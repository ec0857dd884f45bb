"""rtnetlink, as much of it as capturing needs: rules, routes, addresses and links as messages, and one socket for them.

Our own bytes instead of a library, because a change of state waits for them: all that a capture changes goes to the
kernel in one system call, and what is there is read in a millisecond. Layouts: linux/netlink.h, linux/rtnetlink.h,
linux/fib_rules.h, linux/if_link.h, linux/if_addr.h; all numbers in the machine's byte order but addresses.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network

from engine.host.capture import MAIN, IPAddress, IPInterface, IPNetwork, Rule
from engine.host.guests import Way

PROTOCOL = 109  # routing protocol number of our rules and routes (rt_protos: unassigned)
UNREACHABLE_METRIC = 0xFFFFFFFF
TIMEOUT = 10.0  # seconds for an answer of the kernel
RTN_UNICAST, RTN_LOCAL, RTN_UNREACHABLE = 1, 2, 7
_RTN_ANY = 0  # RTN_UNSPEC
# RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV6_RULE: notes of every change
GROUPS = (1, 5, 7, 8, 9, 11, 19)

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_EVERYTHING: dict[int, IPNetwork] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _DELADDR, _GETADDR = 16, 17, 18, 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 26, 32, 33, 34
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _STRICT_CHECK = 270, 12
_BATCH = 64  # messages in one send: their answers fit the socket's buffer
_FR_TO_TABLE, _FR_GOTO, _FR_NOP, _FR_UNREACHABLE = 1, 2, 3, 7
_NOWHERE = (_FR_NOP, 6, _FR_UNREACHABLE, 8)  # with FR_ACT_BLACKHOLE and FR_ACT_PROHIBIT
_LOCAL = 255  # RT_TABLE_LOCAL
_INVERT = 2  # FIB_RULE_INVERT
_NODAD = 0x02  # IFA_F_NODAD: nobody to ask on a TUN
_IFF_UP = 1
# RT_SCOPE_UNIVERSE also for routes without a gateway: with RT_SCOPE_LINK the kernel, looking for the way to the gateway
# of somebody's new route, would find it in the tunnel. RT_SCOPE_NOWHERE is any.
_SCOPE_UNIVERSE, _SCOPE_ANY = 0, 255
_FRA_DST, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS, _FRA_TABLE = 1, 3, 4, 6, 10, 14, 15
_FRA_UID_RANGE, _FRA_PROTOCOL, _FRA_IP_PROTO, _FRA_DPORT_RANGE = 20, 21, 22, 24
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_METRICS, _RTA_TABLE, _RTA_MARK = 1, 4, 6, 8, 15, 16
_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_CACHEINFO, _RTA_VIA, _RTA_ENCAP_TYPE, _RTA_NH_ID = 5, 9, 12, 18, 21, 30
_RTM_F_CLONED = 0x200
_LEARNED = (1, 9, 16)  # RTPROT_REDIRECT, RTPROT_RA, RTPROT_DHCP
_IFA_F_PERMANENT = 0x80
_RTAX_MTU = 2
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO = 3, 4, 18
_INFO_KIND, _INFO_DATA = 1, 2
_TUN_TYPE, _TUN_PERSIST = 3, 6  # IFLA_TUN_TYPE, with the value IFF_TUN, and IFLA_TUN_PERSIST


@dataclass(frozen=True)
class Change:
    """One change of the machine: `what` for people, the message, and the errnos that mean it was not needed.

    `cosmetic`: nothing that is enforced depends on it.
    """

    what: str
    kind: int
    flags: int
    body: bytes
    fine: tuple[int, ...] = ()
    cosmetic: bool = False


@dataclass(frozen=True)
class Foreign:
    """Somebody else's policy rule that may lead packets somewhere; `what` it does, in the words of `ip rule`."""

    version: int
    priority: int
    what: str


@dataclass(frozen=True)
class Route:
    """A route of one table. `interface` is the index of the device it leads to; unreachable ones have none."""

    network: IPNetwork
    table: int
    interface: int | None = None
    unreachable: bool = False
    metric: int = 0
    protocol: int = PROTOCOL
    tos: int = 0


@dataclass(frozen=True)
class Link:
    """A network device. `kind` is "tun" for TUN devices and TAPs; `stays`: it is a TUN that stays without its owner."""

    index: int
    name: str
    kind: str
    up: bool
    mtu: int
    stays: bool = False


class Socket:
    """A request socket in the network namespace of the thread that makes it. OSError is the kernel's."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        self._socket.bind((0, 0))
        self._socket.settimeout(TIMEOUT)
        self._sequence = 0

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def change(self, changes: Sequence[Change]) -> list[tuple[Change, int]]:
        """Make the changes in order, all of them; return those that failed, with their errno."""
        failed = []
        for begin in range(0, len(changes), _BATCH):
            batch = changes[begin : begin + _BATCH]
            first = self._sequence + 1
            self._send(*((change.kind, change.flags | _ACK, change.body) for change in batch))
            answered = 0
            while answered < len(batch):
                for kind, _, sequence, body in _messages(self._socket.recv(65536)):
                    if kind == _ERROR and first <= sequence < first + len(batch):
                        answered += 1
                        change, error = batch[sequence - first], -struct.unpack_from("=i", body)[0]
                        if error and error not in change.fine:
                            failed.append((change, error))
        return failed

    def ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """The answers to a question."""
        for _ in range(10):
            self._send((kind, flags, body))
            found: list[bytes] = []
            interrupted = ended = False
            while not ended:  # to its end even if interrupted: while a dump goes on the kernel begins no other
                for answer, more, sequence, payload in _messages(self._socket.recv(65536)):
                    if sequence != self._sequence:
                        continue  # of a question that timed out
                    interrupted |= bool(more & _INTERRUPTED)
                    if answer in (_ERROR, _DONE):
                        error = struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                        if error:
                            raise OSError(-error, os.strerror(-error))
                    if answer != _DONE:
                        found.append(payload)
                    ended |= answer in (_ERROR, _DONE) or not flags & _DUMP
            if not interrupted:  # else somebody changed it meanwhile: what was read may be of neither time
                return found
        raise OSError(errno.EBUSY, "it changes all the time")

    def _send(self, *messages: tuple[int, int, bytes]) -> None:
        data = b""
        for kind, flags, body in messages:
            self._sequence += 1
            data += struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, self._sequence, 0) + body
        self._socket.send(data)

    # What is there

    def rules(self, version: int) -> list[Rule]:
        """Our policy rules of an IP version."""
        return self.all_rules(version)[0]

    def all_rules(self, version: int) -> tuple[list[Rule], list[Foreign]]:
        """Our policy rules of an IP version, and those of others that may lead packets somewhere."""
        dump = self.ask(_GETRULE, _DUMP, struct.pack("=B11x", _FAMILY[version]))
        found = [_parse_rule(body, version) for body in dump]
        ours = [rule for rule in found if isinstance(rule, Rule)]
        return ours, [rule for rule in found if isinstance(rule, Foreign)]

    def routes(self, version: int, table: int) -> list[Route]:
        """All routes of the table."""
        body = struct.pack("=B11x", _FAMILY[version]) + _u32(_RTA_TABLE, table)
        try:
            dump = self.ask(_GETROUTE, _DUMP, body)
        except FileNotFoundError:  # no such table yet
            return []
        return [route for route in (_parse_route(body, version) for body in dump) if route.table == table]

    def addresses(self, index: int) -> set[IPInterface]:
        """The addresses of a network device."""
        found = set()
        for body in self.ask(_GETADDR, _DUMP, struct.pack("=4xI", index)):
            attributes = _attributes(body[8:])
            address = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
            found.add(ip_interface(f"{ip_address(address)}/{body[1]}"))
        return found

    def ways(self, version: int) -> list[Way]:
        """Main's routes of an IP version, as to where they lead."""
        dump = self.ask(_GETROUTE, _DUMP, struct.pack("=B11x", _FAMILY[version]) + _u32(_RTA_TABLE, MAIN))
        return [way for way in (_parse_way(body, version) for body in dump) if way is not None]

    def leased(self) -> set[int]:
        """The indices of the network devices that have an address for a limited time."""
        found = set()
        for body in self.ask(_GETADDR, _DUMP, bytes(8)):
            attributes = _attributes(body[8:])
            flags = _number(attributes[_IFA_FLAGS]) if _IFA_FLAGS in attributes else body[2]
            if not flags & _IFA_F_PERMANENT:
                found.add(int(struct.unpack_from("=I", body, 4)[0]))
        return found

    def index(self, name: str) -> int | None:
        """The index of the network device of this name; None: there is none."""
        try:
            (body, *_) = self.ask(_GETLINK, 0, bytes(16) + _attribute(_IFLA_IFNAME, name.encode() + b"\0"))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return int(struct.unpack_from("=i", body, 4)[0])

    def link(self, index: int) -> Link:
        """One network device."""
        (body, *_) = self.ask(_GETLINK, 0, struct.pack("=4xi8x", index))
        attributes = _attributes(body[16:])
        info = _attributes(attributes.get(_IFLA_LINKINFO, b""))
        kind = info.get(_INFO_KIND, b"")
        data = _attributes(info.get(_INFO_DATA, b"")) if _text(kind) == "tun" else {}
        return Link(
            index=index,
            name=_text(attributes[_IFLA_IFNAME]),
            kind=_text(kind),
            up=bool(struct.unpack_from("=I", body, 8)[0] & _IFF_UP),
            mtu=_number(attributes[_IFLA_MTU]),
            stays=data.get(_TUN_TYPE) == b"\1" and data.get(_TUN_PERSIST) == b"\1",
        )

    def way(self, address: IPAddress, mark: int) -> tuple[int, int, int, int]:
        """How a packet with the mark goes to `address`: route type, table, device index, the route's own MTU or 0."""
        header = struct.pack("=BB10x", _FAMILY[address.version], address.max_prefixlen)
        (body, *_) = self.ask(_GETROUTE, 0, header + _attribute(_RTA_DST, address.packed) + _u32(_RTA_MARK, mark))
        attributes = _attributes(body[12:])
        metrics = _attributes(attributes.get(_RTA_METRICS, b""))
        table = _number(attributes.get(_RTA_TABLE, bytes([body[4], 0, 0, 0])))
        device, mtu = attributes.get(_RTA_OIF, bytes(4)), metrics.get(_RTAX_MTU, bytes(4))
        return body[7], table, _number(device), _number(mtu)


# Messages that change something


def add_rule(rule: Rule) -> Change:
    """Add a rule; it may be there."""
    return Change(f"the policy rule {rule.priority}", _NEWRULE, _CREATE | _EXCL, _rule(rule), (errno.EEXIST,))


def remove_rule(rule: Rule) -> Change:
    """Remove a rule; it need not be there."""
    return Change(f"the policy rule {rule.priority}", _DELRULE, 0, _rule(rule), (errno.ENOENT,))


def set_route(route: Route, what: str) -> Change:
    """Add a route, or put it in place of another to the same network."""
    return Change(what, _NEWROUTE, _CREATE | _REPLACE, _route(route, _SCOPE_UNIVERSE, _kind(route)))


def set_guest_route(route: Route) -> Change:
    """Add a route to guests; their interface may just have gone or gone down, and with it the guests."""
    gone = (errno.ENODEV, errno.ENETDOWN, errno.ENETUNREACH, errno.EINVAL)
    return replace(set_route(route, f"the route to the guests of {route.network}"), fine=gone)


def remove_route(route: Route) -> Change:
    """Remove a route; it need not be there."""
    # One of another program's may be a "throw" or the like; of ours the unreachable one must not go for another.
    kind = _kind(route) if route.protocol == PROTOCOL else _RTN_ANY
    return Change(f"the route {route.network}", _DELROUTE, 0, _route(route, _SCOPE_ANY, kind), (errno.ESRCH,))


def add_address(index: int, address: IPInterface) -> Change:
    """Give a network device an address; it may have it."""
    return Change(f"the address {address}", _NEWADDR, _CREATE | _EXCL, _address(index, address), (errno.EEXIST,))


def remove_address(index: int, address: IPInterface) -> Change:
    """Take an address from a network device; it need not have it. One too many opens nothing."""
    body, fine = _address(index, address), (errno.EADDRNOTAVAIL,)
    return Change(f"the address {address}", _DELADDR, 0, body, fine, cosmetic=True)


def set_up(index: int, name: str) -> Change:
    """Set a network device up."""
    return Change(f"the interface {name}", _NEWLINK, 0, _link(index, up=True))


def set_mtu(index: int, name: str, mtu: int) -> Change:
    """Change the MTU of a network device, in bytes."""
    return Change(f"the MTU {mtu} of {name}", _NEWLINK, 0, _link(index) + _u32(_IFLA_MTU, mtu), cosmetic=True)


def remove_link(index: int, what: str) -> Change:
    """Delete a network device; it may be gone."""
    return Change(what, _DELLINK, 0, _link(index), (errno.ENODEV,))


# Layouts


def _rule(rule: Rule) -> bytes:
    if rule.table is not None:
        action = _FR_TO_TABLE
    elif rule.goto is not None:
        action = _FR_GOTO
    else:
        action = _FR_UNREACHABLE if rule.unreachable else _FR_NOP
    length = rule.to.prefixlen if rule.to is not None else 0
    flags = _INVERT if rule.unmarked else 0
    body = struct.pack("=BBBBBBBBI", _FAMILY[rule.version], length, 0, 0, 0, 0, 0, action, flags)
    body += _u32(_FRA_PRIORITY, rule.priority) + _attribute(_FRA_PROTOCOL, bytes([PROTOCOL]))
    for kind, number in ((_FRA_TABLE, rule.table), (_FRA_GOTO, rule.goto), (_FRA_FWMARK, rule.mark)):
        if number is not None:
            body += _u32(kind, number)
    if rule.to is not None:
        body += _attribute(_FRA_DST, rule.to.network_address.packed)
    if rule.protocol is not None:
        body += _attribute(_FRA_IP_PROTO, bytes([rule.protocol]))
    if rule.port is not None:
        body += _attribute(_FRA_DPORT_RANGE, struct.pack("=HH", rule.port, rule.port))
    if rule.uid is not None:
        body += _attribute(_FRA_UID_RANGE, struct.pack("=II", rule.uid, rule.uid))
    if rule.incoming is not None:
        body += _attribute(_FRA_IIFNAME, rule.incoming.encode() + b"\0")
    if rule.specific:
        body += _u32(_FRA_SUPPRESS, 0)
    return body


@lru_cache(maxsize=256)  # each capture reads the same ones again
def _parse_rule(body: bytes, version: int) -> Rule | Foreign | None:
    """A rule of ours, or somebody else's; None: that one leads nowhere but to this machine itself, or blocks."""
    attributes = _attributes(body[12:])

    def number(kind: int) -> int | None:
        return _number(attributes[kind]) if kind in attributes else None

    action, to = body[7], attributes.get(_FRA_DST)
    if attributes.get(_FRA_PROTOCOL) != bytes([PROTOCOL]):
        table = number(_FRA_TABLE)
        if action in _NOWHERE or (action == _FR_TO_TABLE and table == _LOCAL):
            return None
        what = f"lookup {table}" if action == _FR_TO_TABLE else f"goto {number(_FRA_GOTO)}"
        return Foreign(version, number(_FRA_PRIORITY) or 0, what)
    return Rule(
        version=version,
        priority=number(_FRA_PRIORITY) or 0,
        table=number(_FRA_TABLE) if action == _FR_TO_TABLE else None,
        goto=number(_FRA_GOTO) if action == _FR_GOTO else None,
        unreachable=action == _FR_UNREACHABLE,
        mark=number(_FRA_FWMARK),
        unmarked=bool(struct.unpack_from("=I", body, 8)[0] & _INVERT),
        to=ip_network(f"{ip_address(to)}/{body[1]}") if to is not None else None,
        protocol=attributes[_FRA_IP_PROTO][0] if _FRA_IP_PROTO in attributes else None,
        port=struct.unpack_from("=H", attributes[_FRA_DPORT_RANGE])[0] if _FRA_DPORT_RANGE in attributes else None,
        uid=struct.unpack_from("=I", attributes[_FRA_UID_RANGE])[0] if _FRA_UID_RANGE in attributes else None,
        incoming=_text(attributes[_FRA_IIFNAME]) if _FRA_IIFNAME in attributes else None,
        specific=number(_FRA_SUPPRESS) == 0,
    )


def _kind(route: Route) -> int:
    return RTN_UNREACHABLE if route.unreachable else RTN_UNICAST


def _route(route: Route, scope: int, kind: int) -> bytes:
    version, length = route.network.version, route.network.prefixlen
    body = struct.pack("=BBBBBBBBI", _FAMILY[version], length, 0, route.tos, 0, route.protocol, scope, kind, 0)
    body += _u32(_RTA_TABLE, route.table)
    if length:
        body += _attribute(_RTA_DST, route.network.network_address.packed)
    if route.interface is not None:
        body += _u32(_RTA_OIF, route.interface)
    if route.metric:
        body += _u32(_RTA_PRIORITY, route.metric)
    return body


@lru_cache(maxsize=256)
def _parse_route(body: bytes, version: int) -> Route:
    attributes = _attributes(body[12:])
    to, device = attributes.get(_RTA_DST), attributes.get(_RTA_OIF)
    unreachable = body[7] == RTN_UNREACHABLE  # for IPv6 such a route leads to the loopback device
    return Route(
        network=ip_network(f"{ip_address(to)}/{body[1]}") if to is not None else _EVERYTHING[version],
        table=_number(attributes.get(_RTA_TABLE, bytes([body[4], 0, 0, 0]))),
        interface=_number(device) if device is not None and not unreachable else None,
        unreachable=unreachable,
        metric=_number(attributes.get(_RTA_PRIORITY, bytes(4))),
        protocol=body[5],
        tos=body[3],
    )


def _parse_way(body: bytes, version: int) -> Way | None:
    """None: it leads nowhere, or is a cached one."""
    if body[7] != RTN_UNICAST or struct.unpack_from("=I", body, 8)[0] & _RTM_F_CLONED:
        return None
    attributes = _attributes(body[12:])
    by = [_number(attributes[_RTA_OIF])] if _RTA_OIF in attributes else []
    hops, offset = attributes.get(_RTA_MULTIPATH, b""), 0
    while offset + 8 <= len(hops):  # struct rtnexthop: length, flags, hops, interface
        length, _, index = struct.unpack_from("=HHi", hops, offset)
        by.append(index)
        offset += max(8, (length + 3) & ~3)
    indirect = (_RTA_GATEWAY, _RTA_VIA, _RTA_MULTIPATH, _RTA_NH_ID, _RTA_ENCAP_TYPE)
    # struct rta_cacheinfo: clntref, lastuse, expires...
    expires = struct.unpack_from("=i", attributes[_RTA_CACHEINFO], 8)[0] if _RTA_CACHEINFO in attributes else 0
    to = attributes.get(_RTA_DST)
    return Way(
        network=ip_network(f"{ip_address(to)}/{body[1]}") if to is not None else _EVERYTHING[version],
        interfaces=tuple(by),
        direct=bool(by) and not any(kind in attributes for kind in indirect),
        learned=body[5] in _LEARNED or expires != 0,
    )


def _address(index: int, address: IPInterface) -> bytes:
    body = struct.pack("=BBBBI", _FAMILY[address.version], address.network.prefixlen, 0, 0, index)
    body += _attribute(_IFA_LOCAL, address.ip.packed) + _attribute(_IFA_ADDRESS, address.ip.packed)
    return body + (_u32(_IFA_FLAGS, _NODAD) if address.version == 6 else b"")


def _link(index: int, *, up: bool = False) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _IFF_UP if up else 0, _IFF_UP if up else 0)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, body) of each message in what was received."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        if not 16 <= length <= len(data) - offset:
            raise OSError(errno.EBADMSG, "the kernel's answer is cut off")
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if not 4 <= length <= len(data) - offset:
            raise OSError(errno.EBADMSG, "the kernel's answer is cut off")
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _u32(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


def _number(value: bytes) -> int:
    return int(struct.unpack_from("=I", value)[0])


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")

"""Put a `Capture` into the kernel, and take it out again: rtnetlink, in one worker thread.

pyroute2's own asyncio side does not run on uvloop, and its synchronous side not inside a running loop; so one
thread has one synchronous IPRoute, and `Host` hands it whole jobs. Each job is idempotent: it reads what is
there, which may be the leftovers of a run that was killed, adds what is missing and then removes what is not
wanted. Our rules and routes are recognised by their routing protocol number.

Order when capturing: unreachable defaults, rules (from here on nothing leaves), interface, routes into it.
Order when releasing: rules (from here on the machine is as if we had never run), interface, routes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface, ip_network
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from engine.host import sysctl
from engine.host.capture import Capture, IPAddress, IPInterface, IPNetwork, Rule, rules

log = logging.getLogger(__name__)

PROTOCOL = 109  # routing protocol number of our rules and routes (rt_protos: unassigned)
UNREACHABLE_METRIC = 0xFFFFFFFF
JOB_SECONDS = 10.0
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_FR_ACT_TO_TABLE, _FR_ACT_GOTO, _FR_ACT_NOP, _FR_ACT_UNREACHABLE = 1, 2, 3, 7  # linux/fib_rules.h
_FIB_RULE_INVERT = 2
_RTN_UNICAST, _RTN_UNREACHABLE = 1, 7  # linux/rtnetlink.h
_NO_WAY_OUT = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)

T = TypeVar("T")


class HostError(Exception):
    """The machine refused a change: one sentence that says what and why."""


class Host:
    """This network namespace's routes, rules and addresses. Every method runs in the worker thread."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._ip: IPRoute | None = None

    async def capture(self, capture: Capture) -> None:
        """Make the kernel route as `capture` says; what an earlier capture had beyond it goes. HostError."""
        await self._run(lambda ip: _capture(ip, capture))

    async def release(self, interface: str | None, mark: int) -> None:
        """Remove everything of ours and the interface (None: all into which our routes lead). HostError.

        Whatever is already gone is fine.
        """
        await self._run(lambda ip: _release(ip, interface, mark))

    async def reachable(self, address: IPAddress, mark: int) -> bool:
        """Whether a packet with the mark has a way to `address`; when the kernel cannot say, yes."""
        return await self._run(lambda ip: _reachable(ip, address, mark))

    async def route_mtu(self, address: IPAddress, mark: int) -> int:
        """The MTU of the route to `address` in bytes, 1500 when there is none."""
        return await self._run(lambda ip: _route_mtu(ip, address, mark))

    async def _run(self, job: Callable[[IPRoute], T]) -> T:
        def work() -> T:
            if self._ip is None:
                self._ip = IPRoute()
            return job(self._ip)

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(JOB_SECONDS):
                return await loop.run_in_executor(self._worker, work)
        except TimeoutError:
            raise HostError(f"the kernel did not answer within {JOB_SECONDS:.0f} s") from None

    async def close(self) -> None:
        """End the worker thread. What has been captured stays captured."""

        def work() -> None:
            if self._ip is not None:
                self._ip.close()

        await asyncio.get_running_loop().run_in_executor(self._worker, work)
        self._worker.shutdown()


def _capture(ip: IPRoute, capture: Capture) -> None:
    sysctl.prepare()
    for version in _versions():
        route = _unreachable(version, capture.table)
        _change("the unreachable default route", ip.route, "replace", **route)
        _set_rules(ip, version, rules(capture, version), capture.table)
    index = _index(ip, capture.interface)
    if index is None:
        raise HostError(f"the interface {capture.interface} does not exist")
    sysctl.quiet_interface(capture.interface)
    left_over = _tunnels(ip, capture.table) - {index}
    what = f"the MTU {capture.mtu} of {capture.interface}"
    _change(what, ip.link, "set", index=index, mtu=capture.mtu, state="up")
    _set_addresses(ip, index, capture)
    for version in _versions():
        _set_routes(ip, version, index, capture)
    for other in left_over:  # of an earlier run by another name
        _change("the tunnel of an earlier run", ip.link, "del", fine=errno.ENODEV, index=other)


def _release(ip: IPRoute, interface: str | None, mark: int) -> None:
    if interface is not None and not _is_tun(ip, interface):
        raise HostError(f"the interface {interface} is no tunnel: it is left alone, and so is everything else")
    for version in (4, 6):
        _set_rules(ip, version, (), mark)
    indices = _tunnels(ip, mark)
    if interface is not None:
        index = _index(ip, interface)
        indices = {index} if index is not None else set()
    for index in indices:
        _change("the tunnel's interface", ip.link, "del", fine=errno.ENODEV, index=index)
    for version in (4, 6):
        for route in _routes(ip, version, mark):
            _change("a route of ours", ip.route, "del", fine=errno.ESRCH, **route)
    sysctl.restore()


def _tunnels(ip: IPRoute, table: int) -> set[int]:
    """The interfaces into which our table leads; IPv6 has "unreachable" leave by the loopback device."""
    leads = {route["oif"] for version in (4, 6) for route in _routes(ip, version, table) if "oif" in route}
    return leads - {_index(ip, "lo")}


def _versions() -> tuple[int, ...]:
    """The IP versions that this kernel speaks: without IPv6 there is nothing to capture."""
    return (4, 6) if sysctl.has_ipv6() else (4,)


def _change(what: str, call: Callable[..., object], *args: object, fine: int = 0, **request: object) -> None:
    """Make one change; the errno `fine` means that it was not needed."""
    try:
        call(*args, **request)
    except NetlinkError as error:
        if error.code == fine:
            return
        if error.code == errno.EPERM:
            raise HostError(f"{what} may not be changed: run as root or with CAP_NET_ADMIN") from error
        raise HostError(f"{what} could not be changed: {error.args[-1]}") from error


def _is_tun(ip: IPRoute, interface: str) -> bool:
    """Whether the interface may be ours: a TUN, or (already) none at all."""
    index = _index(ip, interface)
    if index is None:
        return True
    (link,) = ip.get_links(index)
    return bool(link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "tun")


def _index(ip: IPRoute, interface: str) -> int | None:
    found = ip.link_lookup(ifname=interface)
    return int(found[0]) if found else None


# Rules


def is_captured() -> bool:
    """Whether rules of ours are in force in this network namespace, whoever set them. Needs no privilege; HostError."""
    with IPRoute() as ip:
        return any(_our_rules(ip, version) for version in _versions())


def _set_rules(ip: IPRoute, version: int, wanted: tuple[Rule, ...], table: int) -> None:
    present = {_parse_rule(message, version) for message in _our_rules(ip, version)}
    for rule in wanted:
        if rule not in present:
            _change(f"the policy rule {rule.priority}", _rule, ip, "add", rule, fine=errno.EEXIST)
    # Only exceptions come and go; one that goes makes the capture tighter.
    for rule in present - set(wanted):
        _change(f"the policy rule {rule.priority}", _rule, ip, "del", rule, fine=errno.ENOENT)


def _our_rules(ip: IPRoute, version: int) -> list[Any]:
    try:
        messages = list(ip.get_rules(family=_FAMILY[version]))
    except NetlinkError as error:
        if error.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            return []
        raise HostError(f"the policy rules cannot be read: {error.args[-1]}") from error
    return [message for message in messages if message.get_attr("FRA_PROTOCOL") == PROTOCOL]


def _rule(ip: IPRoute, command: str, rule: Rule) -> None:
    request: dict[str, Any] = {
        "family": _FAMILY[rule.version],
        "priority": rule.priority,
        "FRA_PROTOCOL": PROTOCOL,
        "action": _FR_ACT_TO_TABLE,
    }
    if rule.table is not None:
        request["table"] = rule.table
    else:
        request["table"] = 0
        if rule.goto is not None:
            request |= {"action": _FR_ACT_GOTO, "FRA_GOTO": rule.goto}
        else:
            request["action"] = _FR_ACT_UNREACHABLE if rule.unreachable else _FR_ACT_NOP
    if rule.mark is not None:
        request["fwmark"] = rule.mark
    if rule.unmarked:
        request["flags"] = _FIB_RULE_INVERT
    if rule.to is not None:
        request["dst"] = str(rule.to.network_address)
        request["dst_len"] = rule.to.prefixlen
    if rule.protocol is not None:
        request["ip_proto"] = rule.protocol
    if rule.port is not None:
        request["dport_range"] = f"{rule.port}:{rule.port}"
    if rule.uid is not None:
        request["uid_range"] = f"{rule.uid}:{rule.uid}"
    if rule.specific:
        request["FRA_SUPPRESS_PREFIXLEN"] = 0
    ip.rule(command, **request)


def _parse_rule(message: Any, version: int) -> Rule:
    def first(name: str) -> int | None:
        value = message.get_attr(name)
        return None if value is None else int(value.split(":")[0])

    dst = message.get_attr("FRA_DST")
    action = message["action"]
    return Rule(
        version=version,
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") if action == _FR_ACT_TO_TABLE else None,
        goto=message.get_attr("FRA_GOTO") if action == _FR_ACT_GOTO else None,
        unreachable=action == _FR_ACT_UNREACHABLE,
        mark=message.get_attr("FRA_FWMARK"),
        unmarked=bool(message["flags"] & _FIB_RULE_INVERT),
        to=ip_network(f"{dst}/{message['dst_len']}") if dst is not None else None,
        protocol=message.get_attr("FRA_IP_PROTO"),
        port=first("FRA_DPORT_RANGE"),
        uid=first("FRA_UID_RANGE"),
        specific=message.get_attr("FRA_SUPPRESS_PREFIXLEN") == 0,
    )


# Addresses


def _set_addresses(ip: IPRoute, index: int, capture: Capture) -> None:
    present: set[IPInterface] = {
        ip_interface(f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}")
        for message in ip.get_addr(index=index)
    }
    for address in capture.addresses:
        if address.version == 6 and not sysctl.has_ipv6(capture.interface):
            log.warning("IPv6 is off on this machine: the address %s is left out", address)
        elif address not in present:
            request = _address(address)
            _change(f"the address {address}", ip.addr, "add", fine=errno.EEXIST, index=index, **request)
    for address in present - set(capture.addresses):
        request = _address(address)
        _change(f"the address {address}", ip.addr, "del", fine=errno.EADDRNOTAVAIL, index=index, **request)


def _address(address: IPInterface) -> dict[str, Any]:
    request: dict[str, Any] = {"address": str(address.ip), "prefixlen": address.network.prefixlen}
    if address.version == 6:
        request["flags"] = 0x02  # IFA_F_NODAD: nobody to ask on a TUN
    return request


# Routes


def _unreachable(version: int, table: int) -> dict[str, Any]:
    return {
        "family": _FAMILY[version],
        "dst": "default",
        "table": table,
        "type": "unreachable",
        "priority": UNREACHABLE_METRIC,
        "proto": PROTOCOL,
    }


def _set_routes(ip: IPRoute, version: int, index: int, capture: Capture) -> None:
    wanted = {route for route in capture.routes if route.version == version}
    if version == 6 and not sysctl.has_ipv6(capture.interface):
        wanted = set()  # the unreachable default catches IPv6
    for network in wanted:
        _change(
            f"the route {network} into {capture.interface}",
            ip.route,
            "replace",
            family=_FAMILY[version],
            dst=str(network),
            oif=index,
            table=capture.table,
            proto=PROTOCOL,
        )
    for route in _routes(ip, version, capture.table):
        if "oif" in route and route.get("priority") != UNREACHABLE_METRIC:
            network = ip_network(route["dst"])
            if network not in wanted or route["oif"] != index:
                _change("a stale route", ip.route, "del", fine=errno.ESRCH, **route)


def _routes(ip: IPRoute, version: int, table: int) -> list[dict[str, Any]]:
    """Our table's routes, each as the arguments that delete it."""
    everything: IPNetwork = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    found = []
    try:
        messages = list(ip.get_routes(family=_FAMILY[version], table=table))
    except NetlinkError as error:
        if error.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):
            return []
        raise HostError(f"the routes cannot be read: {error.args[-1]}") from error
    for message in messages:
        if message["proto"] != PROTOCOL or message.get_attr("RTA_TABLE") != table:
            continue
        dst = message.get_attr("RTA_DST")
        route: dict[str, Any] = {
            "family": _FAMILY[version],
            "dst": f"{dst}/{message['dst_len']}" if dst is not None else str(everything),
            "table": table,
            "proto": PROTOCOL,
        }
        if message["type"] == _RTN_UNREACHABLE:
            route["type"] = "unreachable"
        else:
            route["oif"] = message.get_attr("RTA_OIF")
        if message.get_attr("RTA_PRIORITY") is not None:
            route["priority"] = message.get_attr("RTA_PRIORITY")
        found.append(route)
    return found


def _reachable(ip: IPRoute, address: IPAddress, mark: int) -> bool:
    try:
        routes = list(ip.route("get", family=_FAMILY[address.version], dst=str(address), mark=mark))
    except NetlinkError as error:
        if error.code not in _NO_WAY_OUT:
            log.warning("no answer to the question for a route to %s: %s", address, error)
        return error.code not in _NO_WAY_OUT
    # A route through our own device would be the tunnel inside itself.
    return any(r["type"] == _RTN_UNICAST and r.get_attr("RTA_TABLE") != mark for r in routes)


def _route_mtu(ip: IPRoute, address: IPAddress, mark: int) -> int:
    try:
        for route in ip.route("get", family=_FAMILY[address.version], dst=str(address), mark=mark):
            metrics = route.get_attr("RTA_METRICS")
            own = metrics.get_attr("RTAX_MTU") if metrics is not None else None
            if own:
                return int(own)
            for link in ip.get_links(route.get_attr("RTA_OIF")):
                return int(link.get_attr("IFLA_MTU"))
    except NetlinkError as error:
        log.debug("no route to %s: %s", address, error)
    return 1500

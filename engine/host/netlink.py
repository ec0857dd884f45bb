"""Put a `Capture` into the kernel, and take it out again: rtnetlink, in one worker thread.

`Host` hands whole jobs to one thread. Each job is idempotent: it reads what is there, which may be the leftovers of a
run that was killed, adds what is missing and, if all of that could be added, removes what is not wanted. Our rules are
recognised by their routing protocol number; the table, whose number is the mark, is ours as a whole.

Order when capturing: unreachable defaults, rules (from here on nothing leaves), interface, addresses, routes into it.
Order when releasing: rules (from here on the machine is as if we had never run), interface, routes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TypeVar

from engine.host import rtnetlink, sysctl
from engine.host.capture import LOWEST_END, PRIORITY_END, Capture, IPAddress, Rule, guests_table, rules
from engine.host.guests import Way, to_guests, uplinks
from engine.host.rtnetlink import RTN_LOCAL, RTN_UNICAST, UNREACHABLE_METRIC, Change, Foreign, Route, Socket

log = logging.getLogger(__name__)

JOB_SECONDS = 10.0
_NO_WAY_OUT = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)

T = TypeVar("T")


class HostError(Exception):
    """The machine refused a change: one sentence that says what and why."""


class InterfaceGone(HostError):
    """The interface to capture with is not there (any more): only a new TUN helps."""


@dataclass(frozen=True)
class Disturbance:
    """What is not as we left it. `lost`: the interface is gone or another one, and only a new TUN helps."""

    what: str
    lost: bool = False


class Host:
    """This network namespace's routes, rules and addresses. Every method runs in the worker thread."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._socket: Socket | None = None
        self._captured: tuple[Capture, int] | None = None  # with the interface's index
        self._uplinks: set[int] = set()  # the interfaces that have been one

    async def capture(self, capture: Capture) -> None:
        """Make the kernel route as `capture` says; what an earlier capture had beyond it goes.

        HostError, also if all of it is there but somebody else's rule is asked first.
        """

        def work(netlink: Socket) -> None:
            self._captured = None
            self._captured = capture, _capture(netlink, capture)
            try:
                self._follow_guests(netlink, *self._captured)
            except (HostError, OSError) as error:  # in doubt guests get no answers; nothing else depends on it
                log.warning("the routes to guests are left as they are: %s", error)
            if before := _in_front(netlink, LOWEST_END):
                raise HostError(f"{before}, so packets may go past the tunnel: remove it")

        await self._run(work)

    async def release(self, interface: str | None, mark: int) -> None:
        """Remove everything of ours, and the interface besides those into which our routes lead. HostError.

        Whatever is already gone is fine, and so is an interface of that name that is somebody else's.
        """

        def work(netlink: Socket) -> None:
            self._captured = None
            self._uplinks.clear()
            _release(netlink, interface, mark)

        await self._run(work)

    async def disturbed(self) -> Disturbance | None:
        """What somebody else has changed of the last capture; None: nothing. HostError.

        Guests that have come or gone are no disturbance: their routes are set. That the interface is lost is said once.
        """

        asked: tuple[Capture, int] | None = None

        def work(netlink: Socket) -> Disturbance | None:
            nonlocal asked
            asked = self._captured
            if asked is None:
                return None
            found = _compare(netlink, *asked)
            if found is None:
                self._follow_guests(netlink, *asked)
            return found

        found = await self._run(work)
        if found is not None and found.lost and self._captured is asked:
            self._captured = None  # only now: an answer that was late has not been heard, and is asked for again
        return found

    async def block(self, capture: Capture) -> None:
        """Without an interface to route into: what `capture` would catch is unreachable. HostError."""

        def work(netlink: Socket) -> None:
            self._captured = None  # nothing is as that one left it
            _block(netlink, capture)

        await self._run(work)

    async def reachable(self, address: IPAddress, mark: int) -> bool:
        """Whether a packet with the mark has a way to `address`; when the kernel cannot say, yes."""
        return await self._run(lambda netlink: _reachable(netlink, address, mark))

    async def has_ipv6(self, interface: str) -> bool:
        """Whether the kernel speaks IPv6 on the interface. HostError."""
        return await self._run(lambda netlink: sysctl.has_ipv6(interface))

    async def route_mtu(self, address: IPAddress, mark: int) -> int:
        """The MTU of the route to `address` in bytes, 1500 when there is none."""
        return await self._run(lambda netlink: _route_mtu(netlink, address, mark))

    def _follow_guests(self, netlink: Socket, capture: Capture, index: int) -> None:
        """Let the guests' table have the routes to those who are there now, and only while answers may come."""
        wanted: set[Route] = set()
        if capture.guests:
            ways = {version: netlink.ways(version) for version in _versions()}
            known = uplinks((way for each in ways.values() for way in each), netlink.leased())
            self._uplinks |= known or set()
            if known is not None:
                wanted = {route for version in ways for route in self._guests(ways[version], capture, index)}
        there = {route for version in _versions() for route in netlink.routes(version, capture.guests_table)}
        _make(netlink, [rtnetlink.remove_route(route) for route in there - wanted])
        _make(netlink, [rtnetlink.set_guest_route(route) for route in wanted - there])

    def _guests(self, ways: list[Way], capture: Capture, index: int) -> set[Route]:
        return {
            Route(network, capture.guests_table, interface=interface, metric=_metric(network.version))
            for network, interface in to_guests(ways, {*self._uplinks, index})
        }

    async def _run(self, job: Callable[[Socket], T]) -> T:
        def work() -> T:
            try:
                if self._socket is None:
                    self._socket = Socket()
                return job(self._socket)
            except OSError as error:
                raise HostError(f"the kernel's routing cannot be asked: {error.strerror or error}") from error

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(JOB_SECONDS):
                return await loop.run_in_executor(self._worker, work)
        except TimeoutError:
            raise HostError(f"the kernel did not answer within {JOB_SECONDS:.0f} s") from None

    async def close(self) -> None:
        """End the worker thread. What has been captured stays captured."""

        def work() -> None:
            if self._socket is not None:
                self._socket.close()

        self._worker.submit(work)
        self._worker.shutdown(wait=False)


def is_captured() -> bool:
    """Whether rules of ours are in force in this network namespace, whoever set them. Needs no privilege; HostError."""
    try:
        with closing(Socket()) as netlink:
            return any(netlink.rules(version) for version in _versions())
    except OSError as error:
        raise HostError(f"the policy rules cannot be read: {error.strerror or error}") from error


def _block(netlink: Socket, capture: Capture) -> None:
    """What blocks even without an interface, and no exception beyond it. It needs no descriptor but the socket's."""
    for changes in _blocking(netlink, capture):
        _make(netlink, changes)


def _capture(netlink: Socket, capture: Capture) -> int:
    """Capture; the interface's index. If that fails, what blocks is tried nevertheless."""
    try:
        return _capture_all(netlink, capture)
    except (HostError, OSError):
        try:
            _block(netlink, capture)
        except (HostError, OSError) as worse:
            log.error("nothing could be made unreachable either: %s", worse)
        raise


def _capture_all(netlink: Socket, capture: Capture) -> int:
    sysctl.prepare()
    index = netlink.index(capture.interface)
    if index is None:
        raise InterfaceGone(f"the interface {capture.interface} does not exist")
    sysctl.quiet_interface(capture.interface)
    for address in capture.addresses:
        if address.version == 6 and not sysctl.has_ipv6(capture.interface):
            log.warning("IPv6 is off on this machine: the address %s is left out", address)
    missing, surplus = _plan(netlink, capture, index)
    _make(netlink, missing)
    _make(netlink, surplus)
    if surplus:  # the last IPv4 address takes all IPv4 routes of its interface with it
        _make(netlink, _plan(netlink, capture, index)[0])
    if missing or surplus:  # a change that succeeded is no proof
        for changes, how in zip(_plan(netlink, capture, index), ("missing", "not ours"), strict=True):
            for change in changes:
                if not change.cosmetic:
                    raise HostError(f"{change.what} is still {how}")
    return index


def _release(netlink: Socket, interface: str | None, mark: int) -> None:
    index = netlink.index(interface) if interface is not None else None
    if index is not None and not (link := netlink.link(index)).stays:  # as each of ours does without its owner
        why = "no tunnel of ours" if link.kind == "tun" else "no tunnel"
        log.warning("the interface %s is %s: it is left alone", interface, why)
        index = None
    routes = [route for version in _versions() for route in netlink.routes(version, mark)]
    tunnels = {route.interface for route in routes if _is_tun(netlink, route.interface)} | {index}
    routes += [route for version in _versions() for route in netlink.routes(version, guests_table(mark))]
    _make(netlink, [rtnetlink.remove_rule(rule) for version in _versions() for rule in netlink.rules(version)])
    _make(netlink, [rtnetlink.remove_link(i, "the tunnel's interface") for i in tunnels if i is not None])
    _make(netlink, [rtnetlink.remove_route(route) for route in routes])
    sysctl.restore()


def _compare(netlink: Socket, capture: Capture, index: int) -> Disturbance | None:
    if netlink.index(capture.interface) != index:
        return Disturbance(f"the interface {capture.interface} is not there any more", lost=True)
    before = _in_front(netlink, LOWEST_END)
    if before:
        return Disturbance(before)
    try:
        differing, unknown = _plan(netlink, capture, index), None
    except OSError as error:  # for want of descriptors, say: what blocks can be looked at without
        differing, unknown = _blocking(netlink, capture), error
    for changes, how in zip(differing, ("missing", "not ours"), strict=True):
        for change in changes:
            if not change.cosmetic:
                return Disturbance(_in_front(netlink, PRIORITY_END) or f"{change.what} is {how}")
    if unknown is not None:
        raise unknown
    return None


def _plan(netlink: Socket, capture: Capture, index: int) -> tuple[list[Change], list[Change]]:
    """What is missing of the capture and what is there beyond it, each in the order to change it."""
    missing, surplus = _blocking(netlink, capture)
    link = netlink.link(index)
    if link.mtu != capture.mtu:
        missing.append(rtnetlink.set_mtu(index, link.name, capture.mtu))
    if not link.up:
        missing.append(rtnetlink.set_up(index, link.name))
    has_ipv6 = sysctl.has_ipv6(capture.interface)
    present = netlink.addresses(index)
    wanted = {address for address in capture.addresses if has_ipv6 or address.version == 4}
    missing += [rtnetlink.add_address(index, address) for address in capture.addresses if address in wanted - present]
    surplus += [rtnetlink.remove_address(index, address) for address in present - wanted]
    others: set[int] = set()
    for version in _versions():
        into = {
            Route(network, capture.table, interface=index, metric=_metric(version))
            for network in capture.routes
            if network.version == version and (has_ipv6 or version == 4)  # else "unreachable" catches IPv6
        }
        there = netlink.routes(version, capture.table)
        for route in into.difference(there):
            missing.append(rtnetlink.set_route(route, f"the route {route.network} into {link.name}"))
        for route in there:
            if route not in into and route != _unreachable(version, capture):
                surplus.append(rtnetlink.remove_route(route))
                if route.interface is not None and route.interface != index and _is_tun(netlink, route.interface):
                    others.add(route.interface)
    # Of an earlier run by another name.
    surplus += [rtnetlink.remove_link(i, "the tunnel of an earlier run") for i in others]
    return missing, surplus


def _blocking(netlink: Socket, capture: Capture) -> tuple[list[Change], list[Change]]:
    """What is missing and what is too much of that which blocks even without an interface."""
    missing: list[Change] = []
    surplus: list[Change] = []
    for version in _versions():
        unreachable = _unreachable(version, capture)
        if unreachable not in netlink.routes(version, capture.table):
            missing.append(rtnetlink.set_route(unreachable, "the unreachable default route"))
        present, foreign = netlink.all_rules(version)
        wanted = rules(capture, version, low=_must_be_low(present, foreign))
        there, kept = set(present), set(wanted)
        missing += [rtnetlink.add_rule(rule) for rule in wanted if rule not in there]
        # Only exceptions come and go; one that goes makes the capture tighter.
        surplus += [rtnetlink.remove_rule(rule) for rule in present if rule not in kept]
    return missing, surplus


def _must_be_low(ours: list[Rule], foreign: list[Foreign]) -> bool:
    """Whether our rules have to be at the front, or are there already: they do not go to and fro."""
    return any(rule.priority <= PRIORITY_END for rule in foreign) or any(rule.priority <= LOWEST_END for rule in ours)


def _in_front(netlink: Socket, end: int) -> str:
    """Which rule of somebody else's is asked before our last one, whose priority is `end`; empty: none."""
    for version in _versions():
        for rule in netlink.all_rules(version)[1]:
            if rule.priority <= end:
                return f"somebody else's rule comes before ours (IPv{version}, {rule.priority}: {rule.what})"
    return ""


def _make(netlink: Socket, changes: list[Change]) -> None:
    for change, error in netlink.change(changes):
        if error == errno.EPERM:
            raise HostError(f"{change.what} may not be changed: run as root or with CAP_NET_ADMIN")
        raise HostError(f"{change.what} could not be changed: {os.strerror(error)}")


def _versions() -> tuple[int, ...]:
    """The IP versions that this kernel speaks: without IPv6 there is nothing to capture."""
    return (4, 6) if sysctl.has_ipv6() else (4,)


def _is_tun(netlink: Socket, index: int | None) -> bool:
    """Whether the device may be one of ours; whatever else a route leads to is never deleted."""
    try:
        return index is not None and netlink.link(index).kind == "tun"
    except OSError:  # it has just gone
        return False


def _metric(version: int) -> int:
    """The metric that a route has when none is given (for IPv6 IP6_RT_PRIO_USER)."""
    return 0 if version == 4 else 1024


def _unreachable(version: int, capture: Capture) -> Route:
    everything = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    return Route(everything, capture.table, unreachable=True, metric=UNREACHABLE_METRIC)


def _reachable(netlink: Socket, address: IPAddress, mark: int) -> bool:
    try:
        kind, table, _, _ = netlink.way(address, mark)
    except OSError as error:
        if error.errno not in _NO_WAY_OUT:
            log.warning("no answer to the question for a route to %s: %s", address, error)
        return error.errno not in _NO_WAY_OUT
    # A route through our own device would be the tunnel inside itself.
    return kind in (RTN_UNICAST, RTN_LOCAL) and table != mark  # local: another program of this machine carries it


def _route_mtu(netlink: Socket, address: IPAddress, mark: int) -> int:
    try:
        _, _, index, own = netlink.way(address, mark)
        return own or netlink.link(index).mtu
    except OSError as error:
        log.debug("no route to %s: %s", address, error)
    return 1500

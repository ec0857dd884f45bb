"""`Session`: the runner of the state machine, and the one TUN that lives as long as anything is blocked.

Events come from the user, the tunnel, the offline monitor and the session's own timers; they wait in one queue and
one task handles them, so that nothing overlaps. The effects of an event are performed in order, each within a time
limit. If one fails, the rest of its batch is dropped and the failure goes back to the machine at once (see
engine/state/effects.py). While a policy is not in force, a timer asks for it again.

Order of a life: `start()` takes the one place in this network namespace -> Disconnected, where nothing is enforced
unless VPN is always required -> Connecting: attempts, each with the next relay and verified by a ping to the gateway
through the tunnel -> Connected: watched by `Monitor` -> and so on -> `leave()`: the end, open or blocked.

If the process is killed, the TUN stays (it is persistent), and so do the rules: see engine/host/capture.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import FileIO
from typing import Any

from engine import state
from engine.firewall import FirewallError
from engine.host import Host
from engine.policy import MARK, State
from engine.service import device, place
from engine.service.builder import DEFAULT_MTU, MIN_MTU, Configuration
from engine.service.connection import Connection
from engine.service.enforcement import Enforcement, Failed, within
from engine.service.firewall import Nftables
from engine.service.place import Unavailable
from engine.service.ports import DnsPort, FirewallPort, HostPort, OnTun, OpenTun, OpenTunnel
from engine.service.resolvers import Resolvers
from engine.service.status import SessionStatus, as_data
from engine.service.watches import Watches
from engine.state import Candidate, Cause, CauseKind
from engine.tunnel.clock import wall
from engine.tunnel.events import Stopped, TunnelEvent
from tun import TunError

log = logging.getLogger(__name__)

QUEUED_REPORTS = 64
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # from one try to put a policy in force to the next
_OUTER_OVERHEAD = 80  # IPv6 40, UDP 8, WireGuard 32 bytes


@dataclass(frozen=True)
class _Change(state.SettingsChanged):
    """New settings, with the configurations that their candidates stand for. Those have keys: not for the log."""

    configurations: tuple[Configuration, ...] = field(repr=False)

    def __str__(self) -> str:
        return f"settings changed, {len(self.configurations)} to choose from"


class Session:
    """One VPN: see the head of this module. All methods belong to the event loop's thread.

    `alternatives` are other relays to try where `configuration`'s does not answer, in order of preference.
    """

    def __init__(
        self,
        configuration: Configuration,
        *alternatives: Configuration,
        host: HostPort | None = None,
        dns: DnsPort | None = None,
        firewall: FirewallPort | None = None,
        open_tun: OpenTun = device.open_tun,
        open_tunnel: OpenTunnel = device.open_tunnel,
        on_tun: OnTun = lambda fd, name: None,
    ) -> None:
        self._configuration = configuration  # the one in force
        self._configurations: tuple[Configuration, ...] = ()  # those to choose from
        self._numbered: list[tuple[int, Configuration]] = []  # those of the last change, with their generations
        self._generation = 0
        self._host: HostPort = host if host is not None else Host()
        self._dns, self._resolvers = dns, Resolvers(dns)
        self._firewall: FirewallPort = firewall if firewall is not None else Nftables()
        self._enforcement = Enforcement(
            host=self._host,
            firewall=self._firewall,
            open_tun=open_tun,
            open_tunnel=open_tunnel,
            on_event=self._tunnel_event,
            on_tun=on_tun,
        )
        first = self._changed(configuration, *alternatives)
        self._machine = state.Machine(first.settings)
        self._configurations = first.configurations
        self._queue: deque[state.Event] = deque()
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._connection = Connection(self.post)
        self._watches: Watches | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._retries = 0
        self._lock: FileIO | None = None
        self._closed = False
        self._status = SessionStatus(self._machine.situation.status, wall())
        self._watchers: set[asyncio.Queue[SessionStatus]] = set()

    # For the user

    @property
    def status(self) -> SessionStatus:
        """What was told last."""
        return self._status

    @property
    def machine_state(self) -> State:
        """Where it is, or is being brought to at this moment; the status tells once it is there."""
        return self._machine.state

    @property
    def configuration(self) -> Configuration:
        """What is in force: of several relays the one in use."""
        return self._configuration

    @property
    def pending(self) -> bool:
        """Whether events have not been handled to the end yet."""
        return not self._idle.is_set()

    def details(self) -> dict[str, Any]:
        """All there is to tell, as plain data (see `engine.service.status.as_data`)."""
        tunnel = self._enforcement.tunnel
        facts = tunnel.status() if tunnel is not None else None
        connection, resolvers = self._connection, self._resolvers.describe()
        blocked = self._firewall.blocked() if self._configuration.firewall else ()
        return as_data(
            self._status,
            self._configuration,
            facts,
            resolvers,
            connection.verified_by,
            connection.bridge_drops,
            blocked,
        )

    async def start(self, connecting: bool = True) -> None:
        """Take the place. Raises Unavailable; then nothing has changed.

        `connecting`: a connect follows. The TUN is opened and drops everything, and what a killed run left blocking
        stays until the next policy takes it over. Without it the session begins in Disconnected: what a killed run
        left is removed, or, if VPN is always required, the block is in force on return (or the status says not).
        """
        self._lock = place.take()
        try:
            if self._configuration.firewall and (missing := await within("nftables", self._firewall.missing())):
                raise Unavailable("; ".join(missing))
            await self._resolvers.recover()
            firewall = self._firewall if self._configuration.firewall else None
            self._watches = Watches(
                self._host, firewall, self._dns, self.post, self._enforcement.lost, self._connection.resumed
            )
            self._watches.ways_out(self._machine.situation.settings.candidates)
            policy = self._machine.situation.policy
            if connecting:
                await self._enforcement.prepare(policy, self._configuration)
                if policy.blocks:
                    await self._enforcement.apply(policy, self._configuration)
        except (Failed, OSError, TunError, FirewallError, Unavailable) as error:
            if self._watches is not None:
                self._watches.close()
                self._watches = None
            if self._machine.situation.policy.blocks:
                await self._enforcement.close_tunnel()
            else:
                await self._enforcement.discard()
            self._give_up_place()
            why = error.why if isinstance(error, Failed) else str(error)
            raise Unavailable(why) from None
        self._runner = asyncio.create_task(self._run(), name="session")
        if not connecting:
            self.post(self._changed(*(each for _, each in self._numbered)))
            await self._idle.wait()

    def connect(self) -> None:
        """Connect; when connected already, anew. Also the way out of Error."""
        self.post(state.Connect())

    def disconnect(self) -> None:
        """The explicit disconnect (KS-1): afterwards nothing is enforced, unless VPN is always required."""
        self.post(state.Disconnect())

    def block(self, detail: str = "") -> None:
        """Block everything until a connect or disconnect. In Disconnected it means nothing."""
        self.post(state.Block(Cause(CauseKind.BLOCKED, detail)))

    def change(self, configuration: Configuration, *alternatives: Configuration) -> None:
        """Go over to this configuration, in the same TUN: other relays, keys, addresses, MTU or settings.

        A tunnel whose relay is still among them stays as it is. ValueError for another interface or mode, that would
        be another session, and for alternatives that differ in more than the relay.
        """
        if configuration.interface != self._configuration.interface:
            raise ValueError(f"a session stays on its interface {self._configuration.interface}")
        if configuration.firewall != self._configuration.firewall:
            raise ValueError(f"a session stays in its mode {self._configuration.mode}")
        self.post(self._changed(configuration, *alternatives))

    def _changed(self, *configurations: Configuration) -> _Change:
        """The event that makes these the candidates. A generation is kept where a running tunnel can be."""
        first = configurations[0]
        if not all(first.same_but_for_the_relay(other) for other in configurations):
            raise ValueError("the alternatives of a configuration may differ from it in the relay only")
        before, self._numbered = self._numbered, []
        for configuration in configurations:
            known = (number for number, other in before if configuration.same_tunnel(other))
            number = next(known, None)
            if number is None:
                self._generation = number = self._generation + 1
            self._numbered.append((number, configuration))
        candidates: list[Candidate] = [each.candidate(number) for number, each in self._numbered]
        return _Change(first.settings(*candidates), configurations)

    async def watch(self) -> AsyncGenerator[SessionStatus, None]:
        """The status now, and then each one that is told. Who reads too slowly misses the oldest."""
        queue: asyncio.Queue[SessionStatus] = asyncio.Queue(QUEUED_REPORTS)
        queue.put_nowait(self._status)
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    async def until(self, *states: State) -> SessionStatus:
        """Wait until the session is in one of the states."""
        statuses = self.watch()
        try:
            async for status in statuses:
                if status.state in states:
                    return status
        finally:
            await statuses.aclose()
        raise AssertionError("unreachable")

    def turns(self) -> tuple[int, ...] | None:
        """Turns of each datapath thread; a later call gives others, or that thread hangs. None: there is no TUN."""
        tunnel = self._enforcement.tunnel
        return tunnel.turns() if tunnel is not None else None

    async def settled(self) -> None:
        """Wait until every event so far has been handled to its end."""
        await self._idle.wait()

    def protect(self, sock: socket.socket) -> None:
        """Let this socket's packets go past the tunnel, as the engine's own do. Needs CAP_NET_ADMIN."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        if self._configuration.underlying_network is not None:
            device = self._configuration.underlying_network.encode()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)

    async def leave(self, keep: bool) -> SessionStatus:
        """The end of the session, and what is enforced then (EXIT-1). Never raises; the status tells.

        `keep`: Error's policy is put in force, and TUN, routes and firewall stay behind without us, and block. Else
        the explicit disconnect: all is as before `start`.
        """
        if self._closed:
            return self._status
        configurations = [each for _, each in self._numbered]
        if keep is not configurations[0].always_require_vpn or self._machine.state is State.DISCONNECTED:
            self.post(self._changed(*(replace(each, always_require_vpn=keep) for each in configurations)))
        self.disconnect()
        if self._runner is not None:
            await self._idle.wait()
        await self.close()
        return self._status

    async def stop(self) -> None:
        """Disconnect and leave. With "always require VPN" everything stays behind and blocks."""
        await self.leave(self._configuration.always_require_vpn)

    async def close(self) -> None:
        """End without disconnecting: what blocks goes on blocking, as after a crash. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._runner is not None:
            self._runner.cancel()
            with suppress(asyncio.CancelledError):
                await self._runner
        if self._retry is not None:
            self._retry.cancel()
        await self._connection.end()
        if self._watches is not None:
            self._watches.close()
        await self._enforcement.close_tunnel()
        await self._host.close()
        await self._firewall.close()
        await self._resolvers.close()
        self._give_up_place()
        self._idle.set()  # for who waits: nothing is handled any more

    def post(self, event: state.Event) -> None:
        """Queue an event for the state machine."""
        self._queue.append(event)
        self._idle.clear()
        self._wake.set()

    # The runner

    async def _run(self) -> None:
        while True:
            while self._queue:
                await self._handle(self._queue.popleft())
            self._retry_later()
            self._wake.clear()
            self._idle.set()
            await self._wake.wait()

    def _retry_later(self) -> None:
        """While the policy is not in force, ask for it again, first soon and then more seldom."""
        if self._machine.situation.failure is None:
            self._retries = 0
        elif self._retry is None:
            delay = RETRY_SECONDS[min(self._retries, len(RETRY_SECONDS) - 1)]
            self._retries += 1
            self._retry = asyncio.get_running_loop().call_later(delay, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self.post(state.Retry())

    async def _handle(self, event: state.Event) -> None:
        log.info("event: %s", event)
        if isinstance(event, _Change):
            self._configurations = event.configurations
        if isinstance(event, state.Disturbed | state.DeviceLost | state.Retry):
            self._enforcement.doubt()
        for effect in self._machine.handle(event):
            try:
                await self._perform(effect)
            except Failed as failure:
                log.error("%s", failure)
                await self._handle(failure.event)
                return
            except Exception as error:  # a fault of ours: stay blocked, and say so
                log.exception("%s failed", effect)
                cause = Cause(CauseKind.INTERNAL, repr(error))
                enforces = isinstance(effect, state.ApplyPolicy | state.OpenTun)
                await self._handle(state.ApplyFailed(cause) if enforces else state.Fatal(cause))
                return
        if isinstance(event, state.Disturbed) and self._status.machine.policy.blocks:
            log.info("put right: %s", event.what)

    async def _perform(self, effect: state.Effect) -> None:
        situation = self._machine.situation
        match effect:
            case state.ApplyPolicy(policy):
                log.info("policy: %s", policy.describe())
                if policy.state is not State.DISCONNECTING:  # which keeps the facts it found
                    self._configuration = self._configurations[situation.choice]
                    if self._watches is not None:
                        self._watches.ways_out(situation.settings.candidates)
                await self._enforcement.apply(policy, self._configuration)
            case state.OpenTun():
                await self._enforcement.capture(situation.policy, self._configuration)
                if not situation.device:
                    self.post(state.InterfaceUp())
                await self._resolvers.block(situation.state, self._configuration)
            case state.CloseTun():
                await self._enforcement.release(self._configuration)
            case state.StartTunnel(_, timeout, pause):
                await self._end_connection()
                await self._check_ipv6()
                await self._fit_mtu()
                assert self._enforcement.tunnel is not None  # OpenTun comes before
                await self._connection.begin(self._enforcement.tunnel, self._configuration, timeout, pause)
            case state.StopTunnel():
                try:
                    await self._end_connection()
                    await self._enforcement.silence()
                finally:  # Disconnecting waits for it
                    self.post(state.TunnelClosed())
            case state.SetDns(servers):
                await self._resolvers.set(servers, self._configuration)
            case state.ResetDns():
                await self._resolvers.reset()
            case state.SetMtu(mtu):
                await self._enforcement.set_mtu(mtu, situation.policy, self._configuration)
            case state.Report(status):
                tunnel = self._enforcement.tunnel
                if status.state is State.CONNECTED and self._status.state is not State.CONNECTED and tunnel:
                    await self._connection.watch(tunnel, self._configuration)
                self._report(status)

    def _report(self, status: state.Status) -> None:
        same = status.state is self._status.state
        problem = self._connection.problem if status.state is State.CONNECTING else ""
        self._status = SessionStatus(status, self._status.since if same else wall(), problem)
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(self._status)

    # The tunnel

    async def _end_connection(self) -> None:
        """End the attempt or the watch; what it said and nobody has heard yet counts no more."""
        await self._connection.end()
        stale = (state.TunnelUp, state.TunnelDown, state.HandshakeGivenUp, state.PathMtu)
        self._queue = deque(event for event in self._queue if not isinstance(event, stale))

    def _tunnel_event(self, event: TunnelEvent) -> None:
        if not isinstance(event, Stopped):
            self._connection.tunnel_event(event, self._configuration)
        elif self._enforcement.tunnel is not None:
            # Somebody has deleted the interface. Our rules say "unreachable" until the next apply opens a new one.
            self._enforcement.lost()
            self.post(state.DeviceLost("the interface was deleted"))

    async def _check_ipv6(self) -> None:
        """A tunnel that has IPv6 addresses alone is none where IPv6 is switched off. Failed."""
        only_ipv6 = all(address.version == 6 for address in self._configuration.addresses)
        if only_ipv6 and not await within("the kernel", self._host.has_ipv6(self._configuration.interface)):
            raise Failed(state.Fatal(Cause(CauseKind.IPV6_UNAVAILABLE)))

    async def _fit_mtu(self) -> None:
        """Without a configured MTU: what the route to the first hop leaves for the inner packets."""
        first_hop = self._machine.situation.policy.first_hop
        if self._configuration.mtu is not None or first_hop is None:
            return
        try:
            route = await within("the kernel's routing", self._host.route_mtu(first_hop.ip, MARK))
            mtu = max(MIN_MTU, min(route, 65535) - _OUTER_OVERHEAD - self._bridge_overhead())
        except Exception as error:
            log.warning("the MTU of the way to %s is not known: %s", first_hop.ip, error)
            mtu = DEFAULT_MTU
        await self._enforcement.set_mtu(mtu, self._machine.situation.policy, self._configuration)

    def _bridge_overhead(self) -> int:
        """What the bridge adds to each packet, in bytes."""
        peer, bridge = self._machine.situation.policy.peer, self._configuration.bridge
        return bridge.overhead(peer.ip) if bridge is not None and peer is not None else 0

    def _give_up_place(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

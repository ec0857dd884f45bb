"""`Session`: the runner of the state machine, and the one TUN that lives as long as it does.

Events come from the user, the tunnel, the offline monitor and the session's own timers; they wait in one queue and
one task handles them, so that nothing overlaps. The effects of an event are performed in order. If one fails, the
rest of its batch is dropped and the failure goes back to the machine at once (see engine/state/effects.py).

Order of a life: `start()` takes the one place in this network namespace, and opens the TUN with everything blocked
-> Connecting: attempts, each verified by a ping to the gateway through the tunnel -> Connected: watched by `Monitor`
-> and so on -> `stop()`: the explicit disconnect, then everything is removed; with "always require VPN" the TUN and
the routes stay, and block, without us.

If the process is killed, the TUN stays too (it is persistent), and so do the rules: see engine/host/capture.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from engine import state
from engine.filter import Compiled, compile_policy
from engine.firewall import FirewallError
from engine.host import Capture, DnsError, Host, HostError, OfflineMonitor
from engine.policy import MARK, IPAddress, Platform, Policy, State, nets
from engine.service import place
from engine.service.builder import Configuration
from engine.service.connection import SILENT, Connection
from engine.service.firewall import Nftables, loosens
from engine.service.place import Unavailable
from engine.service.ports import DnsPort, FirewallPort, HostPort, TunnelPort, TunPort
from engine.service.status import SessionStatus, as_data
from engine.state import Cause, CauseKind
from engine.tunnel.clock import wall
from engine.tunnel.events import Stopped, TunnelEvent
from engine.tunnel.tunnel import Tunnel
from tun import LinuxTun, TunError

log = logging.getLogger(__name__)

QUEUED_REPORTS = 64

OpenTun = Callable[[str, int], TunPort]
OpenTunnel = Callable[[TunPort, Callable[[TunnelEvent], None]], TunnelPort]


def _linux_tun(name: str, mtu: int) -> LinuxTun:
    return LinuxTun(name, mtu=mtu, persist=True)


def _tunnel(tun: TunPort, on_event: Callable[[TunnelEvent], None]) -> Tunnel:
    assert isinstance(tun, LinuxTun)
    return Tunnel(tun, fwmark=MARK, on_event=on_event)


class _Failed(Exception):
    """An effect failed: the event that says so."""

    def __init__(self, event: state.ApplyFailed | state.Fatal) -> None:
        super().__init__(str(event.cause))
        self.event = event


class Session:
    """One VPN: see the head of this module. All methods belong to the event loop's thread."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        host: HostPort | None = None,
        dns: DnsPort | None = None,
        firewall: FirewallPort | None = None,
        open_tun: OpenTun = _linux_tun,
        open_tunnel: OpenTunnel = _tunnel,
    ) -> None:
        self._configuration = configuration
        self._generation = 0
        self._machine = state.Machine(configuration.settings())
        self._host: HostPort = host if host is not None else Host()
        self._dns = dns  # None: the system's resolvers are left alone
        self._firewall: FirewallPort = firewall if firewall is not None else Nftables()
        self._open_tun_device, self._open_tunnel = open_tun, open_tunnel
        self._tun: TunPort | None = None
        self._tunnel: TunnelPort | None = None
        self._tun_lost = False
        self._captured: Capture | None = None
        self._compiled: Compiled | None = None
        self._in_force: Policy | None = None  # None: in doubt
        self._queue: deque[state.Event] = deque()
        self._wake = asyncio.Event()
        self._busy = False
        self._runner: asyncio.Task[None] | None = None
        self._connection = Connection(self.post)
        self._offline: OfflineMonitor | None = None
        self._lock: socket.socket | None = None
        self._status = SessionStatus(self._machine.situation.status, wall())
        self._watchers: set[asyncio.Queue[SessionStatus]] = set()

    # For the user

    @property
    def status(self) -> SessionStatus:
        """What was told last."""
        return self._status

    @property
    def configuration(self) -> Configuration:
        """What the session is made of now."""
        return self._configuration

    @property
    def pending(self) -> bool:
        """Whether events have not been handled to the end yet."""
        return self._busy or bool(self._queue)

    def details(self) -> dict[str, Any]:
        """All there is to tell, as plain data (see `engine.service.status.as_data`)."""
        tunnel = self._tunnel.status() if self._tunnel is not None else None
        resolvers = self._dns.describe() if self._dns is not None else ""
        return as_data(self._status, self._configuration, tunnel, resolvers, self._connection.verified_by)

    async def start(self) -> None:
        """Take the place and open the TUN, which drops everything. Raises Unavailable; then nothing has changed."""
        self._lock = place.take()
        try:
            if self._configuration.firewall and (missing := await self._firewall.missing()):
                raise Unavailable("; ".join(missing))
            await self._recover_dns()
            await self._open()
            policy = self._machine.situation.policy
            # Not Disconnected's openness yet: what a killed run left blocking is taken over, by the next policy.
            await (self._apply(policy) if policy.blocks else self._publish(policy))
        except (_Failed, OSError, TunError, FirewallError, Unavailable) as error:
            await self._close_tunnel()
            self._give_up_place()
            raise Unavailable(str(error)) from None
        if isinstance(self._host, Host):
            self._offline = OfflineMonitor(self._host, MARK, self._online_changed)
            self._watch_way_to_peer()
        self._runner = asyncio.create_task(self._run(), name="session")

    def connect(self) -> None:
        """Connect; when connected already, anew. Also the way out of Error."""
        self.post(state.Connect())

    def disconnect(self) -> None:
        """The explicit disconnect (KS-1): afterwards nothing is enforced, unless VPN is always required."""
        self.post(state.Disconnect())

    def change(self, configuration: Configuration) -> None:
        """Go over to this configuration, in the same TUN: another peer, key, address, MTU or setting.

        ValueError for another interface: that would be another session.
        """
        if configuration.interface != self._configuration.interface:
            raise ValueError(f"a session stays on its interface {self._configuration.interface}")
        if configuration.firewall != self._configuration.firewall:
            raise ValueError(f"a session stays in its mode {self._configuration.mode}")
        tunnel_facts = ("wireguard", "mtu", "routes", "underlying_network", "allowed_uids", "disallowed_uids")
        if any(getattr(configuration, f) != getattr(self._configuration, f) for f in tunnel_facts):
            self._generation += 1
        self._configuration = configuration
        self._watch_way_to_peer()
        self.post(state.SettingsChanged(configuration.settings(self._generation)))

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

    def protect(self, sock: socket.socket) -> None:
        """Let this socket's packets go past the tunnel, as the engine's own do. Needs CAP_NET_ADMIN."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        if self._configuration.underlying_network is not None:
            device = self._configuration.underlying_network.encode()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)

    async def stop(self) -> None:
        """The explicit disconnect, and the end of the session.

        With "always require VPN" TUN, routes and firewall stay behind, and block; else all is as before `start`.
        """
        self.disconnect()
        await self.until(State.DISCONNECTED)
        if not self._status.blocks:
            await self._release()  # also if it never connected
        await self.close()

    async def close(self) -> None:
        """End without disconnecting: what blocks goes on blocking, as after a crash."""
        if self._runner is not None:
            self._runner.cancel()
            with suppress(asyncio.CancelledError):
                await self._runner
        await self._connection.end()
        if self._offline is not None:
            self._offline.close()
        await self._close_tunnel()
        await self._host.close()
        await self._firewall.close()
        if self._dns is not None:
            await self._dns.close()
        self._give_up_place()

    def post(self, event: state.Event) -> None:
        """Queue an event for the state machine."""
        self._queue.append(event)
        self._wake.set()

    # The runner

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                event = self._queue.popleft()
                self._busy = True
                try:
                    await self._handle(event)
                except Exception as error:  # a fault of ours: stay blocked, and say so
                    log.exception("handling %s failed", event)
                    await self._handle(state.Fatal(Cause(CauseKind.INTERNAL, repr(error))))
                finally:
                    self._busy = False

    async def _handle(self, event: state.Event) -> None:
        log.info("event: %s", event)
        for effect in self._machine.handle(event):
            try:
                await self._perform(effect)
            except _Failed as failure:
                log.error("%s", failure)
                await self._handle(failure.event)
                return

    async def _perform(self, effect: state.Effect) -> None:
        match effect:
            case state.ApplyPolicy(policy):
                log.info("policy: %s", policy.describe())
                await self._apply(policy)
            case state.OpenTun():
                await self._capture(self._machine.situation.policy)
                if self._machine.situation.interface != self._configuration.tunnel:
                    self.post(state.InterfaceUp(self._configuration.tunnel))
                await self._ask_nobody()
            case state.CloseTun():
                await self._release()
            case state.StartTunnel(_, timeout):
                assert self._tunnel is not None  # OpenTun comes before
                await self._end_connection()
                await self._connection.begin(self._tunnel, self._configuration, timeout)
            case state.StopTunnel():
                await self._stop_tunnel()
                self.post(state.TunnelClosed())
            case state.SetDns(servers):
                await self._set_dns(servers)
            case state.ResetDns():
                await self._reset_dns()
            case state.Report(status):
                if status.state is State.CONNECTED and self._status.state is not State.CONNECTED and self._tunnel:
                    await self._connection.watch(self._tunnel, self._configuration)
                self._report(status)

    def _report(self, status: state.Status) -> None:
        same = status.state is self._status.state
        problem = self._connection.problem if status.state is State.CONNECTING else ""
        self._status = SessionStatus(status, self._status.since if same else wall(), problem)
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(self._status)

    # Enforcement: the program in the TUN, nftables in the firewall mode, and the routes that lead into the TUN

    async def _apply(self, policy: Policy) -> None:
        """Put the policy in force, in engine/service/firewall.py's order; _Failed says what is in force instead."""
        before, self._in_force = self._in_force, None
        loosening = loosens(before, policy)
        steps = [self._publish, self._load_firewall]
        if loosening:
            steps.reverse()
        if policy.blocks:
            self._captured = None  # set everything again: somebody may have changed it
            steps.append(self._capture)
        failed: _Failed | None = None
        for step in steps:
            try:
                await step(policy)
            except _Failed as failure:
                if loosening:
                    raise
                failed = failed or failure
        if failed is not None:
            raise failed
        self._in_force = policy
        if policy.blocks and not self._configuration.firewall:
            await self._remove_stale_table()

    async def _load_firewall(self, policy: Policy) -> None:
        try:
            if not policy.blocks:
                await self._firewall.remove()
            elif self._configuration.firewall:
                await self._firewall.apply(policy)
        except Exception as error:  # whatever it was: enforcement is in doubt
            log.error("the firewall failed: %s", error, exc_info=not isinstance(error, FirewallError))
            raise _Failed(state.ApplyFailed(Cause(CauseKind.APPLY_POLICY, str(error)))) from error

    async def _remove_stale_table(self) -> None:
        """A killed run in the firewall mode has left its table: it names another server, and ours would be blocked."""
        try:
            await self._firewall.remove()
        except FirewallError as error:
            log.error("%s; what it blocks stays blocked", error)

    async def _publish(self, policy: Policy) -> None:
        """Put the policy's program in force in the TUN; on failure everything there is dropped."""
        try:
            if self._tun_lost:
                self._tun_lost = False
                await self._connection.end()
                await self._close_tunnel()
            self._compiled = compile_policy(policy)
            if self._tunnel is not None:
                self._tunnel.apply(self._compiled.code, self._compiled.ids)
        except Exception as error:  # whatever it was: enforcement is in doubt
            log.exception("applying the policy failed")
            raise _Failed(state.ApplyFailed(Cause(CauseKind.APPLY_POLICY, self._block_instead(error)))) from error

    def _block_instead(self, error: Exception) -> str:
        """Drop everything, if that at least can be had."""
        self._compiled = None
        try:
            if self._tunnel is not None:
                self._tunnel.apply(None)
                return f"{error}; everything in the tunnel is dropped instead"
        except Exception:
            log.exception("dropping everything failed too")
        return str(error)

    async def _capture(self, policy: Policy) -> None:
        """See to it that the TUN is there and gets everything. The TUN is never closed to change something."""
        capture = self._configuration.capture(policy)
        if capture == self._captured and self._tunnel is not None:
            return
        try:
            await self._open()
            await self._host.capture(capture)
        except (OSError, TunError, HostError) as error:
            raise _Failed(state.ApplyFailed(Cause(CauseKind.TUN_DEVICE, str(error)))) from error
        self._captured = capture

    async def _open(self) -> None:
        if self._tunnel is not None:
            return
        self._tun = self._open_tun_device(self._configuration.interface, self._configuration.mtu)
        tunnel = self._open_tunnel(self._tun, self._tunnel_event)
        await tunnel.start()
        self._tunnel = tunnel
        if self._compiled is not None:
            tunnel.apply(self._compiled.code, self._compiled.ids)

    async def _release(self) -> None:
        """Take everything out of the machine. That the interface goes too is no news then."""
        tunnel, tun = self._tunnel, self._tun
        self._tunnel = self._tun = self._captured = None
        problems = []
        try:
            try:
                await self._firewall.remove()
            except FirewallError as error:
                problems.append(str(error))
            try:
                await self._host.release(self._configuration.interface, MARK)
            except HostError as error:
                problems.append(str(error))
        finally:
            await _close(tunnel, tun)
        if problems:
            raise _Failed(state.Fatal(Cause(CauseKind.INTERNAL, "; ".join(problems))))

    async def _close_tunnel(self) -> None:
        tunnel, tun = self._tunnel, self._tun
        self._tunnel = self._tun = None
        await _close(tunnel, tun)

    async def _stop_tunnel(self) -> None:
        """Wipe keys and peers, keep the TUN. If that fails the tunnel goes as a whole: it must not send any more."""
        await self._end_connection()
        if self._tunnel is None:
            return
        try:
            await self._tunnel.configure(SILENT)
        except Exception:
            log.exception("the tunnel could not be stopped, so it is closed")
            self._tun_lost = True

    async def _end_connection(self) -> None:
        """End the attempt or the watch; what it said and nobody has heard yet counts no more."""
        await self._connection.end()
        stale = (state.TunnelUp, state.TunnelDown, state.HandshakeGivenUp)
        self._queue = deque(event for event in self._queue if not isinstance(event, stale))

    def _tunnel_event(self, event: TunnelEvent) -> None:
        if isinstance(event, Stopped):
            if self._tunnel is not None:
                # Somebody has deleted the interface. Our rules say "unreachable" until the next apply opens a new
                # one; in Error, where Fatal changes no policy, the settings apply it again.
                self._tun_lost = True
                self.post(state.Fatal(Cause(CauseKind.TUN_DEVICE, "the interface was deleted")))
                self.post(state.SettingsChanged(self._machine.situation.settings))
            return
        self._connection.tunnel_event(event, self._configuration)

    # The system's resolvers

    async def _set_dns(self, servers: tuple[IPAddress, ...]) -> None:
        outside = frozenset(server for server in self._configuration.dns if nets.is_local(server))
        try:
            if self._dns is not None:
                await self._dns.set(self._configuration.interface, servers, outside)
        except DnsError as error:
            raise _Failed(state.Fatal(Cause(CauseKind.SET_DNS, str(error)))) from error

    async def _recover_dns(self) -> None:
        """Never a reason not to start; if it is one not to be Connected, `_set_dns` says so."""
        try:
            if self._dns is not None:
                await self._dns.recover()
        except DnsError as error:
            log.error("%s", error)

    async def _reset_dns(self) -> None:
        """Never a failure for the machine: it must go on leaving the state."""
        try:
            if self._dns is not None:
                await self._dns.reset()
        except DnsError as error:
            log.error("%s", error)

    async def _ask_nobody(self) -> None:
        """Android's system has a resolver that nobody is while it is blocked; a failure opens nothing."""
        if self._configuration.profile.platform is Platform.ANDROID:
            try:
                await self._set_dns(self._configuration.resolvers(self._machine.situation.state))
            except _Failed as failure:
                log.error("%s", failure)

    # The way to the peer

    def _watch_way_to_peer(self) -> None:
        hop = self._configuration.settings().peer
        if self._offline is not None:
            self._offline.watch(hop.ip if hop is not None else None)

    def _online_changed(self, online: bool) -> None:
        self.post(state.Online() if online else state.Offline())

    def _give_up_place(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


async def _close(tunnel: TunnelPort | None, tun: TunPort | None) -> None:
    if tunnel is not None:
        await tunnel.close()
    if tun is not None:
        tun.close()

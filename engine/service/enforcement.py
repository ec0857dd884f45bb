"""`Enforcement`: what makes a policy true on this machine: the program in the TUN, the firewall, the routes.

It owns the one TUN and the tunnel behind it. Order of a change, as engine/service/firewall.py has it:

* tightening: the program, then nftables (in the firewall mode) and the routes at the same time; each is tried even if
  another one failed;
* loosening: nftables, program, routes; the first failure ends it, and the rest stays strict.

Every step has a time limit, whatever it is made of, and whatever fails is a `Failed`: the event that tells the state
machine what could not be done. The step that was late goes on in its thread; the next apply waits behind it, and
says the same until it has ended.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine import state
from engine.filter import Compiled, compile_policy
from engine.firewall import FirewallError
from engine.host import Capture, HostError, InterfaceGone
from engine.policy import MARK, Policy
from engine.service.builder import DEFAULT_MTU, Configuration
from engine.service.connection import SILENT
from engine.service.firewall import loosens
from engine.service.ports import FirewallPort, HostPort, OnTun, OpenTun, OpenTunnel, TunnelPort, TunPort
from engine.state import Cause, CauseKind
from engine.tunnel.events import TunnelEvent

log = logging.getLogger(__name__)

STEP_SECONDS = 12.0  # for one step: more than the parts below allow themselves

T = TypeVar("T")


class Failed(Exception):
    """An effect failed: the event that says so."""

    def __init__(self, event: state.ApplyFailed | state.Fatal | state.DeviceLost) -> None:
        self.event = event
        self.why = event.why if isinstance(event, state.DeviceLost) else event.cause.detail
        super().__init__(self.why if isinstance(event, state.DeviceLost) else str(event.cause))


def not_applied(kind: CauseKind, why: object) -> Failed:
    """The policy, or the capture it relies on, is not in force."""
    return Failed(state.ApplyFailed(Cause(kind, str(why))))


async def within(what: str, work: Awaitable[T]) -> T:
    """Do `work` in time, or TimeoutError says what was late."""
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return await work
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"{what} did not answer within {STEP_SECONDS:g} s") from None


class Enforcement:
    """See the head of this module. All methods belong to the event loop's thread, and to one task at a time."""

    def __init__(
        self,
        *,
        host: HostPort,
        firewall: FirewallPort,
        open_tun: OpenTun,
        open_tunnel: OpenTunnel,
        on_event: Callable[[TunnelEvent], None],
        on_tun: OnTun,
    ) -> None:
        self._host, self._firewall = host, firewall
        self._open_tun, self._open_tunnel = open_tun, open_tunnel
        self._on_event, self._on_tun = on_event, on_tun
        self._tun: TunPort | None = None
        self.tunnel: TunnelPort | None = None
        self._lost = False
        self._gone = False  # the last capture did not find its interface
        self._captured: Capture | None = None
        self._compiled: Compiled | None = None
        self._in_force: Policy | None = None  # None: in doubt
        self._mtu = DEFAULT_MTU

    async def apply(self, policy: Policy, configuration: Configuration) -> None:
        """Put the policy in force; Failed says what is in force instead."""
        before, self._in_force = self._in_force, None
        if loosens(before, policy):
            await self._load_firewall(policy, configuration)
            await self._publish(policy, configuration)
            if policy.blocks:
                await self.capture(policy, configuration)
        else:
            await self._tighten(policy, configuration)
        self._in_force = policy
        if policy.blocks and not configuration.firewall:
            await self._remove_stale_table()

    async def _tighten(self, policy: Policy, configuration: Configuration) -> None:
        """The program first; firewall and routes are in the hands of two threads, and need not wait for each other."""
        published = await _failure(self._publish(policy, configuration))
        firewall, routes = self._load_firewall(policy, configuration), self.capture(policy, configuration)
        for failure in (published, *await asyncio.gather(firewall, routes, return_exceptions=True)):
            if failure is not None:
                raise failure

    async def prepare(self, policy: Policy, configuration: Configuration) -> None:
        """Open the TUN and give it this policy's program; nothing else changes yet. Failed."""
        try:
            await self._open(configuration)
        except Exception as error:
            raise not_applied(CauseKind.TUN_DEVICE, error) from error
        await self._publish(policy, configuration)

    async def capture(self, policy: Policy, configuration: Configuration) -> None:
        """See to it that the TUN is there and gets everything. It is never closed to change something. Failed."""
        capture = configuration.capture(policy, self._mtu)
        if capture == self._captured and self.tunnel is not None:
            return
        self._captured = None
        try:
            await self._open(configuration)
        except Exception as error:  # also that no thread could be started
            try:  # no TUN is no reason to leave everything open
                await within("the kernel's routing", self._host.block(capture))
            except (OSError, HostError) as worse:
                log.error("without a TUN, nothing could be made unreachable either: %s", worse)
            raise not_applied(CauseKind.TUN_DEVICE, error) from error
        try:
            await within("the kernel's routing", self._host.capture(capture))
        except InterfaceGone as error:  # deleted since the policy was published, or by a release of ours that was late
            gone_before, self._gone = self._gone, True
            self.lost()
            if not gone_before:
                raise Failed(state.DeviceLost(str(error))) from error
            raise not_applied(CauseKind.TUN_DEVICE, error) from error
        except (OSError, HostError) as error:
            raise not_applied(CauseKind.TUN_DEVICE, error) from error
        self._captured, self._gone = capture, False

    async def set_mtu(self, mtu: int, policy: Policy, configuration: Configuration) -> None:
        """Let the TUN have this MTU where the configuration names none. Failed."""
        self._mtu = mtu
        await self.capture(policy, configuration)

    async def release(self, configuration: Configuration) -> None:
        """Take everything out of the machine. Failed: something is still there."""
        tunnel, tun = self._take_out()  # first: that the interface goes too is no news then
        problems = []
        for what, work in (
            ("nftables", self._firewall.remove),
            ("the kernel's routing", lambda: self._host.release(configuration.interface, MARK)),
        ):
            try:
                await within(what, work())
            except Exception as error:  # whatever it was: the rest has to go, too
                known = isinstance(error, FirewallError | HostError | OSError)
                problems.append(str(error) if known else repr(error))
        await _close(tunnel, tun)
        if problems:
            raise Failed(state.Fatal(Cause(CauseKind.INTERNAL, "; ".join(problems))))

    async def silence(self) -> None:
        """Wipe keys and peers, keep the TUN. If that fails the tunnel goes as a whole: it must not send any more.

        The interface stays, drops what is routed into it, and is taken over by the next apply.
        """
        if self.tunnel is None:
            return
        try:
            await within("the tunnel", self.tunnel.configure(SILENT))
        except Exception:
            log.exception("the tunnel could not be stopped, so it is closed")
            await self.close_tunnel()

    def doubt(self) -> None:
        """Somebody else may have changed the routes: the next apply looks at all of them."""
        self._captured = None

    def lost(self) -> None:
        """The interface is gone, or somebody else's: the next apply opens another."""
        if self._tun is not None:  # else another one is being opened: the news is of the former
            self._lost = True

    async def close_tunnel(self) -> None:
        """Close tunnel and TUN; a persistent interface stays."""
        await _close(*self._take_out())

    async def discard(self) -> None:
        """Close tunnel and TUN, and let the interface go."""
        tunnel, tun = self._take_out()
        await _close(tunnel, None)
        if tun is not None:
            tun.discard()

    def _take_out(self) -> tuple[TunnelPort | None, TunPort | None]:
        tunnel, tun = self.tunnel, self._tun
        self.tunnel = self._tun = self._captured = None
        if tun is not None:
            self._on_tun(-1, tun.name)
        return tunnel, tun

    # The steps

    async def _publish(self, policy: Policy, configuration: Configuration) -> None:
        """Put the policy's program in force in the TUN; on failure everything there is dropped."""
        try:
            if self._lost:
                self._lost = False
                await self.discard()
            self._compiled = compile_policy(policy)
            if self.tunnel is not None:
                self.tunnel.apply(self._compiled.code, self._compiled.ids)
        except Exception as error:  # whatever it was: enforcement is in doubt
            log.exception("applying the policy failed")
            raise not_applied(CauseKind.APPLY_POLICY, self._block_instead(error)) from error

    def _block_instead(self, error: Exception) -> str:
        """Drop everything, if that at least can be had."""
        self._compiled = None
        try:
            if self.tunnel is not None:
                self.tunnel.apply(None)
                return f"{error}; everything in the tunnel is dropped instead"
        except Exception:
            log.exception("dropping everything failed too")
        return str(error)

    async def _load_firewall(self, policy: Policy, configuration: Configuration) -> None:
        try:
            if not policy.blocks:
                await within("nftables", self._firewall.remove())
            elif configuration.firewall:
                await within("nftables", self._firewall.apply(policy))
        except Exception as error:  # whatever it was: enforcement is in doubt
            log.error("the firewall failed: %s", error, exc_info=not isinstance(error, FirewallError | TimeoutError))
            raise not_applied(CauseKind.APPLY_POLICY, error) from error

    async def _remove_stale_table(self) -> None:
        """A killed run in the firewall mode has left its table: it names another server, and ours would be blocked."""
        try:
            await within("nftables", self._firewall.remove())
        except Exception as error:  # what is to be enforced is
            log.error("%s; what it blocks stays blocked", error)

    async def _open(self, configuration: Configuration) -> None:
        if self.tunnel is not None:
            return
        if self._tun is None:
            self._tun = await self._opened(configuration.interface, configuration.mtu or self._mtu)
            self._on_tun(self._tun.fileno(), self._tun.name)
        tunnel = self._open_tunnel(self._tun, self._on_event)
        try:
            await within("the tunnel", tunnel.start())
        except Exception:
            await _close(tunnel, None)
            raise
        self.tunnel = tunnel
        if self._compiled is not None:
            tunnel.apply(self._compiled.code, self._compiled.ids)

    async def _opened(self, name: str, mtu: int) -> TunPort:
        """The TUN, opened in a thread: it may hang, the loop must not. One that comes too late goes."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[TunPort] = loop.create_future()

        def deliver(tun: TunPort | None, error: Exception | None) -> None:
            if not opened.done():
                opened.set_result(tun) if tun is not None else opened.set_exception(error or OSError("no TUN"))
            elif tun is not None:
                tun.discard()  # it is persistent, and nobody's any more

        def work() -> None:
            tun: TunPort | None = None
            failure: Exception | None = None
            try:
                tun = self._open_tun(name, mtu)
            except Exception as error:
                failure = error
            try:
                loop.call_soon_threadsafe(deliver, tun, failure)
            except RuntimeError:  # the loop has ended meanwhile
                if tun is not None:
                    tun.discard()

        threading.Thread(target=work, name="open-tun", daemon=True).start()
        return await within("the TUN device", opened)


async def _failure(step: Awaitable[None]) -> Failed | None:
    try:
        await step
    except Failed as failure:
        return failure
    return None


async def _close(tunnel: TunnelPort | None, tun: TunPort | None) -> None:
    """What hangs is left behind."""
    try:
        if tunnel is not None:
            await within("the tunnel", tunnel.close())
    except Exception:
        log.exception("the tunnel could not be closed")
    if tun is not None:
        tun.close()

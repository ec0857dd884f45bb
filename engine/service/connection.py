"""`Connection`: make the tunnel, prove that it carries traffic, and watch it while it does.

An attempt: forget every former session -> keys and peers -> ping the gateway through the tunnel, which starts the
handshake; its answer proves the whole way. Without a gateway the handshake has to do. Once connected, `Monitor` says
when to look and when to ping. What comes of it are events for the state machine, handed to `post`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from engine import state
from engine.policy import MARK, IPAddress
from engine.service.builder import Configuration, peer_for, source_for
from engine.service.monitor import Action, Monitor
from engine.service.ports import TunnelPort
from engine.state import Cause, CauseKind
from engine.tunnel.clock import now
from engine.tunnel.events import HandshakeCompleted, HandshakeGivenUp, TunnelEvent, Unanswered
from engine.wg.config import DeviceConfig

log = logging.getLogger(__name__)

PROBE_SECONDS = 1.0  # between two pings while connecting
SILENT = DeviceConfig(fwmark=MARK)  # no key, no peer: nothing is sent, nothing is answered


class Connection:
    """One tunnel's life from attempt to loss. One task at most is at work: an attempt, or the watch."""

    def __init__(self, post: Callable[[state.Event], None]) -> None:
        self._post = post
        self._task: asyncio.Task[None] | None = None
        self._began = 0.0  # the last attempt, by engine.tunnel.clock
        self._monitor: Monitor | None = None
        self._look = asyncio.Event()
        self._handshake = asyncio.Event()
        self.verified_by = ""
        self.problem = ""  # why the last attempt came to nothing, for the user

    async def begin(self, tunnel: TunnelPort, configuration: Configuration, timeout: float, pause: float = 0.0) -> None:
        """Start an attempt that posts TunnelUp within `timeout` seconds, or TunnelDown, or Fatal.

        It waits until `pause` seconds have passed since the last one began.
        """
        await self.end()
        wait = self._began + pause - now()
        self._task = asyncio.create_task(self._attempt(tunnel, configuration, timeout, wait), name="attempt")

    async def watch(self, tunnel: TunnelPort, configuration: Configuration) -> None:
        """Watch the tunnel from now on; post TunnelDown when it is lost."""
        await self.end()
        self._task = asyncio.create_task(self._watch(tunnel, configuration), name="watch")

    async def end(self) -> None:
        """End what is at work. The tunnel itself is left as it is."""
        task, self._task, self._monitor = self._task, None, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def tunnel_event(self, event: TunnelEvent, configuration: Configuration) -> None:
        """Take what the tunnel says about the VPN server."""
        peer = configuration.peer
        match event:
            case HandshakeCompleted(key) if peer is not None and key == peer.public_key:
                self._handshake.set()
            case HandshakeGivenUp(key) if peer is not None and key == peer.public_key:
                self._post(state.HandshakeGivenUp())
            case Unanswered(key) if peer is not None and key == peer.public_key and self._monitor is not None:
                self._monitor.sent(now())
                self._look.set()
            case _:
                pass

    async def _attempt(self, tunnel: TunnelPort, configuration: Configuration, timeout: float, wait: float) -> None:
        try:
            if wait > 0:
                await tunnel.configure(SILENT)
                await asyncio.sleep(wait)
            self._began = now()
            async with asyncio.timeout(timeout):
                await tunnel.configure(SILENT)
                self._handshake.clear()
                tunnel.bind_to(configuration.underlying_network or "")
                await tunnel.configure(configuration.wireguard)
                await self._verify(tunnel, configuration)
        except TimeoutError:
            self.problem = self._what_is_missing(configuration)
            self._post(state.TunnelDown(self.problem))
        except Exception as error:  # a port that is taken, an interface that is not there
            log.debug("the attempt failed", exc_info=True)
            self._post(state.Fatal(Cause(CauseKind.START_TUNNEL, str(error))))
        else:
            self.problem = ""
            self._post(state.TunnelUp())

    def _what_is_missing(self, configuration: Configuration) -> str:
        peer = configuration.peer
        if not self._handshake.is_set():
            return f"no answer from {peer.endpoint if peer is not None else 'the peer'}: wrong address, key or network?"
        return f"the peer answers, but {_gateway(configuration)} does not answer a ping: is it the gateway?"

    async def _verify(self, tunnel: TunnelPort, configuration: Configuration) -> None:
        gateway = _gateway(configuration)
        if gateway is not None:
            while not await _ping(tunnel, configuration, gateway):
                pass
            self.verified_by = f"a ping to {gateway} through the tunnel"
            return
        # Nobody to ask: a packet to ourselves makes the peer shake hands.
        while not self._handshake.is_set():
            await _ping(tunnel, configuration, configuration.addresses[0].ip)
        self.verified_by = "the handshake alone: no gateway is known"

    async def _watch(self, tunnel: TunnelPort, configuration: Configuration) -> None:
        target = _gateway(configuration) or configuration.addresses[0].ip
        self._monitor = Monitor(now(), _facts(tunnel, configuration)[0])
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._monitor.next_look - now())):
                    await self._look.wait()
            self._look.clear()
            if now() < self._monitor.next_look:
                continue
            match self._monitor.look(now(), *_facts(tunnel, configuration)):
                case Action.PING:
                    await _ping(tunnel, configuration, target)
                case Action.LOST:
                    self.problem = "the peer has fallen silent"
                    self._post(state.TunnelDown(self.problem))
                    return
                case Action.NOTHING:
                    pass


def _gateway(configuration: Configuration) -> IPAddress | None:
    """The first gateway that one of our addresses can ask."""
    return next((gateway for gateway in configuration.gateways if source_for(configuration, gateway)), None)


async def _ping(tunnel: TunnelPort, configuration: Configuration, target: IPAddress) -> bool:
    source, peer = source_for(configuration, target), peer_for(configuration, target)
    if source is None or peer is None:
        await asyncio.sleep(PROBE_SECONDS)
        return False
    return await tunnel.probe(peer.public_key, source, target, PROBE_SECONDS) is not None


def _facts(tunnel: TunnelPort, configuration: Configuration) -> tuple[int, float]:
    """Bytes received from the VPN server, and when the first unanswered packet was sent (0: there is none)."""
    for peer in tunnel.status().peers:
        if configuration.peer is not None and peer.public_key == configuration.peer.public_key:
            return peer.rx_bytes, peer.unanswered_since
    return 0, 0.0

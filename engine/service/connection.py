"""`Connection`: make the tunnel, prove that it carries traffic, and watch it while it does.

An attempt: forget every former session -> open the bridge, if there is one -> keys and peers -> ping the gateway
through the tunnel, which starts the handshake; its answer proves the whole way. Without a gateway the handshake has to
do. Once connected, `Monitor` says when to look and when to ping, and where no MTU is configured, larger pings say what
fits. What comes of it are events for the state machine, handed to `post`. A bridge lives as long as its attempt and the
tunnel that came of it; if it is lost, so is the tunnel.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from engine import state
from engine.bridge import Bridge, BridgeError, BridgeSettings, open_bridge
from engine.policy import MARK, IPAddress
from engine.service.builder import Configuration, peer_for, source_for
from engine.service.monitor import Action, Monitor
from engine.service.mtu import largest_answered, least_mtu
from engine.service.ports import TunnelPort
from engine.state import Cause, CauseKind
from engine.tunnel.clock import now
from engine.tunnel.events import HandshakeCompleted, HandshakeGivenUp, TunnelEvent, Unanswered
from engine.wg.config import DeviceConfig, HostPort

log = logging.getLogger(__name__)

PROBE_SECONDS = 1.0  # between two pings while connecting
END_SECONDS = 5.0  # for what is at work to end when it is told so
_LOOPBACK = "lo"
SILENT = DeviceConfig(fwmark=MARK)  # no key, no peer: nothing is sent, nothing is answered


class Connection:
    """One tunnel's life from attempt to loss. At work is an attempt, or the watch and at first the sizing."""

    def __init__(self, post: Callable[[state.Event], None]) -> None:
        self._post = post
        self._tasks: list[asyncio.Task[None]] = []
        self._began = 0.0  # the last attempt, by engine.tunnel.clock
        self._monitor: Monitor | None = None
        self._look = asyncio.Event()
        self._handshake = asyncio.Event()
        self._bridge: Bridge | None = None
        self._bridge_drops: Counter[str] = Counter()  # of the former ones
        self.verified_by = ""
        self.problem = ""  # why the last attempt came to nothing, for the user

    async def begin(self, tunnel: TunnelPort, configuration: Configuration, timeout: float, pause: float = 0.0) -> None:
        """Start an attempt that posts TunnelUp within `timeout` seconds, or TunnelDown, or Fatal.

        It waits until `pause` seconds have passed since the last one began.
        """
        await self.end()
        if not pause:
            self.problem = ""  # a command: what came of earlier attempts, maybe by other servers, is no news
        wait = self._began + pause - now()
        self._tasks = [asyncio.create_task(self._attempt(tunnel, configuration, timeout, wait), name="attempt")]

    async def watch(self, tunnel: TunnelPort, configuration: Configuration) -> None:
        """Watch the tunnel from now on; post TunnelDown when it is lost, and PathMtu if less fits than the MTU says."""
        await self._end_tasks()
        self._tasks = [asyncio.create_task(self._watched(tunnel, configuration), name="watch")]
        if configuration.mtu is None and _gateway(configuration) is not None:
            self._tasks.append(asyncio.create_task(self._size(tunnel, configuration), name="size"))

    async def end(self) -> None:
        """End what is at work, and close the bridge. The tunnel itself is left as it is."""
        await self._end_tasks()
        if self._bridge is not None:
            self._bridge_drops = self.bridge_drops
            self._bridge.close()
            self._bridge = None

    async def _end_tasks(self) -> None:
        tasks, self._tasks, self._monitor = self._tasks, [], None
        for task in tasks:
            task.cancel()
        if tasks and (await asyncio.wait(tasks, timeout=END_SECONDS))[1]:
            log.error("what is at work on the tunnel does not end, and is left behind")

    def resumed(self) -> None:
        """The machine has slept: ask at once whether the tunnel is still there."""
        if self._monitor is not None:
            self._monitor.resumed(now())
            self._look.set()

    @property
    def bridge_drops(self) -> Counter[str]:
        """Datagrams lost in bridges so far, by reason; no reason without a loss."""
        return self._bridge_drops + Counter(self._bridge.drops if self._bridge is not None else {})

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
                if configuration.bridge is None:
                    tunnel.bind_to(configuration.underlying_network or "")
                    await tunnel.configure(configuration.wireguard)
                else:
                    tunnel.bind_to(_LOOPBACK)  # the engine's own datagrams go to the bridge and nowhere else
                    await tunnel.configure(await self._open_bridge(tunnel, configuration, configuration.bridge))
                await self._verify(tunnel, configuration)
        except TimeoutError:
            self.problem = self._what_is_missing(configuration)
            self._post(state.TunnelDown(self.problem))
        except BridgeError as error:
            self.problem = str(error)
            self._post(state.TunnelDown(self.problem))
        except Exception as error:  # a port that is taken, an interface that is not there
            log.debug("the attempt failed", exc_info=True)
            ours = isinstance(error, LookupError | TypeError | AttributeError | AssertionError)  # their words are none
            why = f"a fault of molehill's, {type(error).__name__}" if ours else str(error)
            self._post(state.Fatal(Cause(CauseKind.START_TUNNEL, why)))
        else:
            self.problem = ""
            self._post(state.TunnelUp())

    async def _open_bridge(
        self, tunnel: TunnelPort, configuration: Configuration, bridge: BridgeSettings
    ) -> DeviceConfig:
        """Open the bridge: the configuration in which its near end stands for the VPN server. BridgeError.

        The other peers have no endpoint then: nothing goes to any server directly (CON-1).
        """
        config, server = configuration.wireguard, configuration.peer
        assert server is not None
        assert server.endpoint is not None
        assert server.endpoint.address is not None
        self._bridge = await open_bridge(
            bridge,
            (server.endpoint.address, server.endpoint.port),
            engine_port=config.listen_port or tunnel.status().listen_port,
            mark=MARK,
            device=configuration.underlying_network or "",
            on_lost=self._bridge_lost,
        )
        near = HostPort("127.0.0.1", self._bridge.port)
        ends: dict[bytes, HostPort | None] = {peer.public_key: None for peer in config.peers}
        return config.with_endpoints({**ends, server.public_key: near})

    def _bridge_lost(self, why: str) -> None:
        for task in self._tasks:
            task.cancel()
        self.problem = why
        self._post(state.TunnelDown(why))

    def _what_is_missing(self, configuration: Configuration) -> str:
        peer = configuration.peer
        if not self._handshake.is_set():
            text = f"no answer from {peer.endpoint if peer is not None else 'the peer'}"
            if configuration.bridge is not None:
                text += f" by way of the bridge {configuration.bridge}"
            return f"{text}: wrong address, key or network?"
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

    async def _watched(self, tunnel: TunnelPort, configuration: Configuration) -> None:
        try:
            await self._watch(tunnel, configuration)
        except Exception as error:  # a fault of ours: a tunnel that nobody watches is none
            log.exception("the tunnel cannot be watched")
            self._post(state.TunnelDown(repr(error)))

    async def _size(self, tunnel: TunnelPort, configuration: Configuration) -> None:
        """Find out what fits through the tunnel."""
        gateway, mtu = _gateway(configuration), tunnel.status().mtu
        assert gateway is not None

        async def ping(size: int, seconds: float) -> bool:
            return await _ping(tunnel, configuration, gateway, seconds, size)

        tunnel.allow_fragments(False)
        try:
            fits = await largest_answered(ping, mtu, least_mtu(configuration))
        except Exception:
            log.exception("what fits through the tunnel cannot be found out")
            return
        finally:
            tunnel.allow_fragments(True)
        if fits is not None and fits < mtu:
            self._post(state.PathMtu(fits))

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


async def _ping(
    tunnel: TunnelPort, configuration: Configuration, target: IPAddress, seconds: float = PROBE_SECONDS, size: int = 0
) -> bool:
    source, peer = source_for(configuration, target), peer_for(configuration, target)
    if source is None or peer is None:
        await asyncio.sleep(seconds)
        return False
    return await tunnel.probe(peer.public_key, source, target, seconds, size) is not None


def _facts(tunnel: TunnelPort, configuration: Configuration) -> tuple[int, float]:
    """Bytes received from the VPN server, and when the first unanswered packet was sent (0: there is none)."""
    for peer in tunnel.status().peers:
        if configuration.peer is not None and peer.public_key == configuration.peer.public_key:
            return peer.rx_bytes, peer.unanswered_since
    return 0, 0.0

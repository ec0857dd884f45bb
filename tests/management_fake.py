"""A daemon that is all interface: it speaks engine/management/schema.py over a real socket and runs no tunnel.

It keeps settings, tunnels, relays, a log and a status, and moves the status as the daemon would: `connect` leads to
Connecting and, where `reaches` is true, to Connected; each change is told to who subscribed. What it was asked is in
`asked`; what is in `refuses` it refuses. It runs in a thread of its own, for blocking clients and for those on asyncio:

    with FakeDaemon(tmp_path / "management.socket") as daemon:
        daemon.show(state="error", cause="the device is offline", cause_kind="offline")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from engine.management import schema
from engine.management.schema import ErrorCode
from engine.wg.conf import ConfError, parse_conf
from engine.wg.keys import key_to_base64

NOW = 1795459812.0  # 2026-11-23 18:50:12 UTC

KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="

DISCONNECTED = schema.Status(
    state="disconnected",
    since=NOW,
    policy="disconnected on linux: nothing is enforced",
    blocks=False,
    enforced=True,
    failure=None,
    cause=None,
    cause_kind=None,
    problem=None,
    attempt=0,
    online=True,
    mode="firewall",
    interface="wg0",
    profile="linux",
    connecting_to=None,
    endpoint=None,
    bridge=None,
    verified_by="",
    dns="",
    mtu=1420,
    allow_lan=False,
    always_require_vpn=False,
)

CONNECTING = msgspec.structs.replace(
    DISCONNECTED,
    state="connecting",
    policy="connecting on linux, peer 192.0.2.7:51820/udp, tunnel wg0, DNS blocked, LAN blocked",
    blocks=True,
    connecting_to="home",
    endpoint="192.0.2.7:51820",
)

CONNECTED = msgspec.structs.replace(
    CONNECTING,
    state="connected",
    policy="connected on linux, peer 192.0.2.7:51820/udp, tunnel wg0, DNS 10.64.0.1, LAN blocked",
    verified_by="a ping to 10.64.0.1 through the tunnel",
    dns="10.64.0.1 by systemd-resolved",
    peers=(schema.PeerInfo(KEY, "192.0.2.7:51820", NOW, 412, 5_000_000),),
    verdicts={"CTD-1": schema.Count(4, 336)},
    offloads={"tso4": True, "tso6": True},
)

DISCONNECTING = msgspec.structs.replace(
    CONNECTED,
    state="disconnecting",
    policy="disconnecting on linux, keeping connected's rules, peer 192.0.2.7:51820/udp, tunnel wg0, LAN blocked",
)

ERROR = msgspec.structs.replace(
    DISCONNECTED,
    state="error",
    policy="error on linux, DNS blocked, LAN blocked",
    blocks=True,
    cause="the peer's host name could not be resolved: vpn.example.net",
    cause_kind="resolve-endpoint",
)

HOME = schema.TunnelInfo("home", KEY, ("10.64.0.2/32",), "192.0.2.7:51820", ("10.64.0.1",))

RELAYS = schema.RelayList(
    relays=tuple(
        schema.Relay(name, country, city, KEY, ipv4, gateways=("10.64.0.1",))
        for name, country, city, ipv4 in (
            ("ch-zrh-1", "ch", "zurich", "192.0.2.21"),
            ("se-got-1", "se", "gothenburg", "192.0.2.11"),
            ("se-got-2", "se", "gothenburg", "192.0.2.12"),
            ("se-sto-1", "se", "stockholm", "192.0.2.13"),
        )
    )
)


class Refused(Exception):
    """An error of the schema."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Request(msgspec.Struct):
    """A request as it comes in."""

    id: int
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


class FakeDaemon:
    """A context manager; `stop` and `start` make it go away and come back with all that it knows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = DISCONNECTED
        self.settings = schema.Settings(choice=schema.TunnelChoice("home"))
        self.tunnels = (HOME,)
        self.relays = RELAYS
        self.lines: list[schema.LogEvent] = []
        self.protocol = schema.PROTOCOL
        self.reaches = True  # whether a connect comes to Connected
        self.course: list[schema.Status] = []  # what happens as soon as somebody has subscribed
        self.hangs_up = False  # on a subscriber, after the course
        self.asked: list[tuple[str, msgspec.Struct]] = []
        self.refuses: dict[str, Refused] = {}
        self._subscribers: dict[asyncio.StreamWriter, bool] = {}  # with or without the log
        self._answers: dict[str, Callable[[Any], msgspec.Struct]] = {
            "hello": lambda _: schema.Hello(self.protocol, "0.1.0", 4242, 4026531840),
            "status": lambda _: self.status,
            "connect": lambda _: self._connect(),
            "disconnect": lambda _: self._disconnect(),
            "reconnect": lambda _: self._reconnect(),
            "settings.get": lambda _: self.settings,
            "settings.set": self._patch,
            "settings.reset": lambda _: self._settle(schema.Settings()),
            "bridge.set": lambda asked: self._settle(msgspec.structs.replace(self.settings, bridge=asked.bridge)),
            "tunnel.list": lambda _: schema.Tunnels(self.tunnels),
            "tunnel.import": self._import,
            "tunnel.remove": self._remove,
            "relay.list": lambda _: self.relays,
            "relay.load": self._load,
            "explain": lambda asked: schema.Explanation("reject", "P-0", f"{asked.packet}\n  REJECT by P-0"),
            "debug.block": lambda asked: self._block(asked.detail),
            "log": lambda asked: schema.Log(tuple(self.lines[-asked.lines :])),
        }

    # What a test does

    def __enter__(self) -> FakeDaemon:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def start(self) -> None:
        """Listen."""
        self._run(self._listen())

    def stop(self) -> None:
        """Hang up on everybody and be gone, as if killed but for the socket's file."""
        self._run(self._leave())

    def show(self, status: schema.Status | None = None, **changes: Any) -> None:
        """From now on the status is this, with these changes; tell the subscribers."""
        self._run(self._move(status or self.status, changes))

    def log(self, text: str, level: str = "info", at: float = NOW) -> None:
        """A line in the log; tell the subscribers."""
        self._run(self._log(schema.LogEvent(at, level, text)))

    def asked_for(self, method: str) -> list[Any]:
        """The parameters of every request of a method so far."""
        return [params for name, params in self.asked if name == method]

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(5)

    # The socket

    async def _listen(self) -> None:
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=schema.MAX_LINE)

    async def _leave(self) -> None:
        self._server.close()
        self.path.unlink(missing_ok=True)
        for writer in list(self._writers):
            writer.close()
        while self._writers:
            await asyncio.sleep(0.001)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                request = msgspec.json.decode(line, type=_Request)
                self._send(writer, self._answer(request, writer))
                if request.method == "subscribe":
                    for status in self.course:
                        self._become(status)
                await writer.drain()
                if request.method == "subscribe" and self.hangs_up:
                    return
        except OSError:
            pass  # the client has gone
        finally:
            self._subscribers.pop(writer, None)
            self._writers.discard(writer)
            writer.close()

    def _answer(self, request: _Request, writer: asyncio.StreamWriter) -> dict[str, Any]:
        try:
            result = self._result(request, writer)
        except Refused as error:
            kind = error.code.name.lower().replace("_", "-")
            told = {"code": int(error.code), "message": str(error), "data": {"kind": kind}}
            return {"jsonrpc": "2.0", "id": request.id, "error": told}
        return {"jsonrpc": "2.0", "id": request.id, "result": result}

    def _result(self, request: _Request, writer: asyncio.StreamWriter) -> msgspec.Struct:
        method = schema.METHODS.get(request.method)
        if method is None:
            raise Refused(ErrorCode.METHOD_NOT_FOUND, f"there is no method {request.method}")
        try:
            params = msgspec.json.decode(request.params, type=method.params)
        except msgspec.ValidationError as error:
            raise Refused(ErrorCode.INVALID_PARAMS, f"{request.method}: {error}") from None
        self.asked.append((request.method, params))
        if request.method in self.refuses:
            raise self.refuses[request.method]
        if isinstance(params, schema.Subscribe):
            self._subscribers[writer] = params.log
            return self.status
        result = self._answers[request.method](params)
        assert type(result) is method.result
        return result

    def _send(self, writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        writer.write(msgspec.json.encode(message) + b"\n")

    def _tell(self, event: schema.Event) -> None:
        for writer, log in self._subscribers.items():
            if log or not isinstance(event, schema.LogEvent):
                self._send(writer, {"jsonrpc": "2.0", "method": "event", "params": event})

    # What the daemon does

    async def _move(self, status: schema.Status, changes: dict[str, Any]) -> None:
        self._become(msgspec.structs.replace(status, **changes))

    async def _log(self, line: schema.LogEvent) -> None:
        self.lines.append(line)
        self._tell(line)

    def _become(self, status: schema.Status) -> schema.Status:
        """The settings show in every status."""
        always = self.settings.always_require_vpn
        self.status = msgspec.structs.replace(
            status,
            allow_lan=self.settings.allow_lan,
            always_require_vpn=always,
            blocks=status.blocks or always,
        )
        self._tell(schema.StatusEvent(self.status))
        return self.status

    def _connect(self) -> schema.Status:
        if self.settings.choice is None:
            raise Refused(ErrorCode.BAD_INPUT, "no tunnel is chosen: molehill tunnel import FILE")
        if self.status.state in ("connecting", "connected"):
            return self.status
        return self._reach()

    def _reach(self) -> schema.Status:
        choice = self.settings.choice
        name = choice.name if isinstance(choice, schema.TunnelChoice) else self.relays.relays[0].hostname
        status = self._become(msgspec.structs.replace(CONNECTING, connecting_to=name))
        if self.reaches:
            self._become(msgspec.structs.replace(CONNECTED, connecting_to=name))
        return status

    def _disconnect(self) -> schema.Status:
        if self.status.state == "disconnected":
            return self.status
        status = self._become(DISCONNECTING)
        self._become(DISCONNECTED)
        return status

    def _reconnect(self) -> schema.Status:
        if self.status.state == "disconnected":
            raise Refused(ErrorCode.WRONG_STATE, "nothing to reconnect: disconnected")
        return self._reach()

    def _block(self, detail: str) -> schema.Status:
        if self.status.state == "disconnected":
            return self.status
        return self._become(msgspec.structs.replace(ERROR, cause=detail or "an internal error", cause_kind="internal"))

    def _settle(self, settings: schema.Settings) -> schema.Settings:
        self.settings = settings
        self._tell(schema.SettingsEvent(settings))
        self._become(self.status)
        return settings

    def _patch(self, patch: schema.SettingsPatch) -> schema.Settings:
        if patch.mtu is not msgspec.UNSET and patch.mtu is not None and not 576 <= patch.mtu <= 65535:
            raise Refused(ErrorCode.BAD_INPUT, f"mtu: {patch.mtu} is not between 576 and 65535")
        changes = {name: value for name, value in msgspec.structs.asdict(patch).items() if value is not msgspec.UNSET}
        return self._settle(msgspec.structs.replace(self.settings, **changes))

    def _import(self, asked: schema.ImportTunnel) -> schema.Imported:
        if any(tunnel.name == asked.name for tunnel in self.tunnels) and not asked.replace:
            raise Refused(ErrorCode.BAD_INPUT, f"there is a tunnel {asked.name} already: --replace")
        try:
            conf = parse_conf(asked.conf)
        except ConfError as error:
            raise Refused(ErrorCode.BAD_INPUT, str(error)) from None
        peer = conf.device.peers[0] if conf.device.peers else None
        endpoint = str(peer.endpoint) if peer is not None and peer.endpoint is not None else None
        addresses, dns = tuple(map(str, conf.addresses)), tuple(map(str, conf.dns))
        key = key_to_base64(peer.public_key) if peer is not None else KEY  # the real daemon tells our own
        tunnel = schema.TunnelInfo(asked.name, key, addresses, endpoint, dns)
        self.tunnels = (*(known for known in self.tunnels if known.name != asked.name), tunnel)
        self._tell(schema.TunnelsEvent(self.tunnels))
        if self.settings.choice is None:
            self._settle(msgspec.structs.replace(self.settings, choice=schema.TunnelChoice(asked.name)))
        return schema.Imported(tunnel, ("PostUp is not run",) if conf.post_up else ())

    def _remove(self, asked: schema.Name) -> schema.Tunnels:
        if all(tunnel.name != asked.name for tunnel in self.tunnels):
            raise Refused(ErrorCode.NOT_FOUND, f"there is no tunnel {asked.name}")
        self.tunnels = tuple(tunnel for tunnel in self.tunnels if tunnel.name != asked.name)
        self._tell(schema.TunnelsEvent(self.tunnels))
        return schema.Tunnels(self.tunnels)

    def _load(self, relays: schema.RelayList) -> schema.RelayList:
        self.relays = relays
        self._tell(schema.RelaysEvent(len(relays.relays)))
        return relays

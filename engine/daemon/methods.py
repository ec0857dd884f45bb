"""The management interface's methods: from the schema's parameters to the service, and back to its results."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from engine import __version__
from engine.daemon.logs import Ring
from engine.daemon.rpc import Refused
from engine.daemon.server import Client
from engine.daemon.service import Service
from engine.daemon.words import check_word
from engine.explain.judge import Judge
from engine.explain.packet import PacketError, parse_packet
from engine.explain.text import as_text
from engine.management.schema import (
    PROTOCOL,
    Count,
    Detail,
    ErrorCode,
    Explanation,
    FirewallDrop,
    Gap,
    Hello,
    Imported,
    ImportTunnel,
    Lines,
    Log,
    Name,
    Nothing,
    Packet,
    PeerInfo,
    RelayList,
    SetBridge,
    Settings,
    SettingsPatch,
    Status,
    Subscribe,
    Tunnels,
)

log = logging.getLogger(__name__)

_READS = frozenset(
    ("hello", "status", "settings.get", "tunnel.list", "relay.list", "explain", "log", "subscribe"),
)


class Methods:
    """Carries out methods by name: a `server.Handler`."""

    def __init__(self, service: Service, ring: Ring) -> None:
        self._service, self._ring = service, ring
        self._judge: Judge | None = None
        self._by_name: dict[str, Callable[[Client, Any], Awaitable[msgspec.Struct]]] = {
            "hello": self._hello,
            "status": self._status,
            "connect": self._connect,
            "disconnect": self._disconnect,
            "reconnect": self._reconnect,
            "settings.get": self._get_settings,
            "settings.set": self._set_settings,
            "settings.reset": self._reset_settings,
            "bridge.set": self._set_bridge,
            "tunnel.list": self._list_tunnels,
            "tunnel.import": self._import_tunnel,
            "tunnel.remove": self._remove_tunnel,
            "relay.list": self._list_relays,
            "relay.load": self._load_relays,
            "explain": self._explain,
            "debug.block": self._block,
            "log": self._log,
            "subscribe": self._subscribe,
        }

    async def __call__(self, client: Client, method: str, params: Any) -> msgspec.Struct:
        """Carry out a method of the schema. Refused."""
        if method not in _READS:
            if self._service.stopping:
                raise Refused(ErrorCode.WRONG_STATE, "the daemon is about to end")
            log.info("%s by %s", method, client)
        return await self._by_name[method](client, params)

    async def _hello(self, client: Client, params: Nothing) -> Hello:
        return Hello(PROTOCOL, __version__, os.getpid(), os.stat("/proc/self/ns/net").st_ino)

    async def _status(self, client: Client, params: Nothing) -> Status:
        return status_of(self._service)

    async def _connect(self, client: Client, params: Nothing) -> Status:
        await self._service.connect()
        return status_of(self._service)

    async def _disconnect(self, client: Client, params: Nothing) -> Status:
        await self._service.disconnect()
        return status_of(self._service)

    async def _reconnect(self, client: Client, params: Nothing) -> Status:
        await self._service.reconnect()
        return status_of(self._service)

    async def _get_settings(self, client: Client, params: Nothing) -> Settings:
        return self._service.settings

    async def _set_settings(self, client: Client, params: SettingsPatch) -> Settings:
        return await self._service.set_settings(params)

    async def _reset_settings(self, client: Client, params: Nothing) -> Settings:
        return await self._service.reset_settings()

    async def _set_bridge(self, client: Client, params: SetBridge) -> Settings:
        return await self._service.set_bridge(params.bridge, params.password)

    async def _list_tunnels(self, client: Client, params: Nothing) -> Tunnels:
        return Tunnels(await self._service.tunnels())

    async def _import_tunnel(self, client: Client, params: ImportTunnel) -> Imported:
        return await self._service.import_tunnel(params.name, params.conf, params.replace)

    async def _remove_tunnel(self, client: Client, params: Name) -> Tunnels:
        return Tunnels(await self._service.remove_tunnel(params.name))

    async def _list_relays(self, client: Client, params: Nothing) -> RelayList:
        return self._service.relays

    async def _load_relays(self, client: Client, params: RelayList) -> RelayList:
        return await self._service.load_relays(params)

    async def _explain(self, client: Client, params: Packet) -> Explanation:
        try:
            facts = parse_packet(params.packet)
        except PacketError as error:
            raise Refused(ErrorCode.BAD_INPUT, f"{error}\n{error.pointing()}") from None
        policy = self._service.session.status.machine.policy
        if self._judge is None or self._judge.policy != policy:
            self._judge = Judge(policy)
        found = self._judge.explain(facts)
        text = f"policy: {policy.describe()}\n{as_text(params.packet, found)}"
        return Explanation(found.verdict, found.rule or "", text)

    async def _block(self, client: Client, params: Detail) -> Status:
        try:
            check_word("detail", params.detail)
        except ValueError as error:
            raise Refused(ErrorCode.BAD_INPUT, str(error)) from None
        await self._service.block(params.detail)
        return status_of(self._service)

    async def _log(self, client: Client, params: Lines) -> Log:
        return Log(self._ring.newest(params.lines))

    async def _subscribe(self, client: Client, params: Subscribe) -> Status:
        client.subscribed = params
        return status_of(self._service)


def status_of(service: Service) -> Status:
    """Everything there is to tell about the tunnel now."""
    session = service.session
    told = session.details()
    configuration = session.configuration
    server = configuration.peer
    return Status(
        **{field: told[field] for field in _AS_TOLD},
        mtu=told["mtu"] or 0,
        blocks=session.status.blocks,
        connecting_to=configuration.session if server is not None else None,
        endpoint=str(server.endpoint) if server is not None else None,
        bridge=told["bridge"],
        allow_lan=service.settings.allow_lan,
        always_require_vpn=service.settings.always_require_vpn,
        notices=service.notices,
        cannot_block=tuple(Gap(gap["id"], gap["text"]) for gap in told["cannot_block"]),
        peers=tuple(PeerInfo(**peer) for peer in told["peers"]),
        firewall_drops=tuple(FirewallDrop(**drop) for drop in told["firewall_drops"]),
        verdicts={rule: Count(**count) for rule, count in told["verdicts"].items()},
    )


_AS_TOLD = (
    "state", "since", "policy", "enforced", "failure", "cause", "cause_kind", "problem", "attempt", "online", "mode",
    "interface", "profile", "verified_by", "dns", "drops", "offloads",
)  # fmt: skip

"""The session with a bridge: the real one, to a relay on loopback, under doubles of tunnel, TUN and host."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import replace
from ipaddress import ip_address

import pytest

from engine.bridge import BridgeSettings
from engine.bridge.relay import Relay
from engine.policy import State
from engine.service import Builder, Session
from engine.state import CauseKind
from engine.wg.config import HostPort, PeerConfig
from tests.unit.service.fake import World
from tests.unit.service.test_session import PEER, WIREGUARD, configuration, connected, own_place, soon, with_session

__all__ = ["own_place"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the bridge's socket is marked, which needs root")

LO = ip_address("127.0.0.1")
NOBODY = BridgeSettings.parse("udp-over-tcp:127.0.0.1:1")
SHADOW = BridgeSettings.parse("shadowsocks:127.0.0.1:1", "hunter2")


class Far:
    """A relay on loopback, and the settings of the bridge to it."""

    def __init__(self) -> None:
        self.relay = Relay((LO, 1), max_connections=8, max_per_address=8, idle_seconds=60)
        self.settings = BridgeSettings.parse(f"udp-over-tcp:127.0.0.1:{self.relay.start(LO, 0)}")


def problem(session: Session) -> str:
    return session.status.problem


def test_con1_the_policy_names_the_bridge_by_its_protocol() -> None:
    for bridge, hop in ((NOBODY, "127.0.0.1:1/tcp"), (SHADOW, "127.0.0.1:1/udp"), (None, "192.0.2.7:51820/udp")):
        settings = configuration(bridge=bridge).settings()
        (candidate,) = settings.candidates
        assert str(candidate.bridge or candidate.peer) == hop
        assert str(candidate.peer) == "192.0.2.7:51820/udp"


def test_the_engine_is_given_the_bridges_near_end_and_no_way_to_any_server() -> None:
    other = PeerConfig(bytes([8]) * 32, endpoint=HostPort("192.0.2.8", 51820))

    async def work(session: Session, world: World) -> None:
        far = Far()
        two = replace(WIREGUARD, peers=(PEER, other))
        session.change(replace(session.configuration, wireguard=two, bridge=far.settings))
        await connected(session)
        assert world.config is not None
        near, none = (peer.endpoint for peer in world.config.peers)
        assert near is not None
        assert (near.host, none) == ("127.0.0.1", None)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, pytest.raises(OSError, match="in use"):
            probe.bind(("127.0.0.1", near.port))
        assert [line for line in world.log if line.startswith("bind")] == ["bind lo"]
        details = session.details()
        assert (details["bridge"], details["peers"][0]["endpoint"]) == (str(far.settings), "192.0.2.7:51820")
        session.change(replace(session.configuration, bridge=None))
        await soon(lambda: world.config and world.config.peers and world.config.peers[0].endpoint == PEER.endpoint)
        assert [line for line in world.log if line.startswith("bind")] == ["bind lo", "bind "]
        await soon(lambda: far.relay.connections == 0)
        far.relay.close()

    with_session(work)


def test_a_bridge_that_is_not_there_stays_connecting_says_so_and_is_tried_again() -> None:
    async def work(session: Session, world: World) -> None:
        session.connect()
        await soon(lambda: problem(session))
        assert problem(session) == "the bridge udp-over-tcp 127.0.0.1:1 cannot be reached: Connection refused"
        await soon(lambda: session.status.machine.attempt >= 2)
        assert session.status.state is State.CONNECTING
        assert world.config is not None
        assert world.config.peers == ()

    with_session(work, bridge=NOBODY)


def test_failures_to_open_a_bridge_follow_each_other_slowly() -> None:
    async def work(session: Session, world: World) -> None:
        session.connect()
        await soon(lambda: problem(session))
        await asyncio.sleep(1.5)
        assert session.status.machine.attempt <= 3

    with_session(work, bridge=NOBODY)


def test_a_lost_bridge_is_a_lost_tunnel_and_the_next_attempt_opens_another() -> None:
    async def work(session: Session, world: World) -> None:
        far = Far()
        session.change(replace(session.configuration, bridge=far.settings))
        await connected(session)
        world.answers = False
        for client in list(far.relay._clients.values()):
            client.stream.close()
        far.relay._clients.clear()
        await session.until(State.CONNECTING)
        assert problem(session).startswith(f"the bridge {far.settings} is lost: the connection broke")
        world.answers = True
        await session.until(State.CONNECTED)
        assert far.relay.connections == 1
        assert problem(session) == ""
        far.relay.close()

    with_session(work)


def test_a_disconnect_closes_the_bridge() -> None:
    async def work(session: Session, world: World) -> None:
        far = Far()
        session.change(replace(session.configuration, bridge=far.settings))
        await connected(session)
        assert far.relay.connections == 1
        session.disconnect()
        await session.until(State.DISCONNECTED)
        await soon(lambda: far.relay.connections == 0)
        far.relay.close()

    with_session(work)


def test_a_device_for_the_bridge_that_is_not_there_is_no_reason_to_give_up() -> None:
    async def work(session: Session, world: World) -> None:
        session.connect()
        await soon(lambda: problem(session))
        assert "cannot be reached: No such device" in problem(session)
        assert session.status.machine.cause is None or session.status.machine.cause.kind is not CauseKind.INTERNAL

    with_session(work, bridge=SHADOW, underlying_network="nowhere9")


def test_the_mtu_leaves_room_for_what_the_bridge_adds() -> None:
    async def work(session: Session, world: World) -> None:
        assert session.configuration.mtu is None
        for bridge, mtu in ((None, 1420), (NOBODY, 1420), (SHADOW, 1365)):
            session.change(replace(session.configuration, bridge=bridge))
            session.connect()
            await soon(lambda mtu=mtu: world.captured and world.captured.mtu == mtu)

    with_session(work)


def test_no_text_of_a_configuration_or_session_has_the_password() -> None:
    async def work(session: Session, world: World) -> None:
        session.connect()
        await session.until(State.CONNECTED)
        told = json.dumps(session.details()) + session.status.line() + repr(session.configuration)
        assert "shadowsocks 127.0.0.1:1" in told
        assert "hunter2" not in told

    with_session(work, bridge=SHADOW)


def test_a_builder_takes_a_bridge() -> None:
    builder = Builder().set_wireguard(WIREGUARD).add_address("10.64.0.2/32").set_bridge(SHADOW)
    assert builder.configuration().bridge == SHADOW
    assert builder.set_bridge(None).configuration().bridge is None

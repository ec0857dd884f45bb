"""What nftables alone stops is counted: packets of sockets bound to a device never see the TUN."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import replace

import pytest

from engine.service import Builder, Configuration, Session, State
from engine.wg.conf import parse_conf
from tests.netns import lab
from tests.netns.scenario import Walk

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

DNS = (lab.WEB4, 53)


def configuration(walk: Walk) -> Configuration:
    conf = parse_conf(walk.write_conf().read_text())
    builder = Builder().set_wireguard(conf.device).set_interface(walk.iface).add_gateway(lab.GATEWAY4)
    for address in conf.addresses:
        builder.add_address(address)
    return builder.set_firewall(True).configuration()


def send(count: int) -> None:
    """Datagrams past the tunnel, to port 53: nobody else here asks there. A rejected one is an error to the sender."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        for _ in range(count):
            with suppress(PermissionError):
                sock.sendto(b"\x00" * 72, DNS)


def told(session: Session, rule: str) -> tuple[int, int]:
    """Packets and bytes that went out and were blocked by the rule, as the status has them."""
    drops = session.details()["firewall_drops"]
    found = [(it["packets"], it["bytes"]) for it in drops if (it["rule"], it["direction"]) == (rule, "out")]
    assert len(found) <= 1
    return found[0] if found else (0, 0)


def test_a_drop_of_the_firewall_alone_is_told_and_stays_in_the_sum_when_the_table_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Walk(firewall=True, progress=lambda text: None) as walk, walk.lab["device"].entered():
        walk.cut_relay(False)
        monkeypatch.setenv("MOLEHILL_RUN_DIR", str(walk.lab.dir / "run"))
        monkeypatch.setenv("MOLEHILL_DNS", "none")

        async def story() -> None:
            made = configuration(walk)
            session = Session(made)
            await session.start(connecting=False)
            session.connect()
            await session.until(State.CONNECTED)
            assert told(session, "CTD-2") == (0, 0)
            send(5)
            assert told(session, "CTD-2") == (5, 500)
            in_the_tun = session.details()["verdicts"].get("CTD-2")
            assert in_the_tun is None, "they never went there"
            session.change(replace(made, allow_lan=True))
            await session.settled()
            assert told(session, "CTD-2") == (5, 500)
            send(2)
            assert told(session, "CTD-2") == (7, 700)
            session.block()
            await session.until(State.ERROR)
            before = told(session, "DNS-3")
            send(3)
            assert told(session, "CTD-2") == (7, 700), "Error has no such rule, and the sum is told all the same"
            assert told(session, "DNS-3") == (before[0] + 3, before[1] + 300)
            session.disconnect()
            await session.until(State.DISCONNECTED)
            assert session.details()["firewall_drops"] == []
            await session.leave(keep=False)

        asyncio.run(story())

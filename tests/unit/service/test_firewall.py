"""The firewall mode: the order of two enforcers, what each failure leaves behind, and what is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import pytest

from engine.firewall import FirewallError
from engine.firewall.nftables import apply
from engine.policy import Hop, Policy, Protocol, State, Tunnel
from engine.service import Builder, Session, Unavailable
from engine.service import firewall as firewall_module
from engine.service.firewall import Nftables, loosens
from tests.unit.service.fake import World
from tests.unit.service.test_session import WIREGUARD, connected, own_place, soon, with_session

__all__ = ["own_place"]  # a fixture, used by its name

PEER = Hop(ip_address("192.0.2.7"), 51820, Protocol.UDP)


def policy(state: State, lan: bool = False, **change: object) -> Policy:
    tunnel = Tunnel("mh0", (), ())
    return Policy(state, allow_lan=lan, **{"peer": PEER, "tunnel": tunnel, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "opens"),
    [
        (policy(State.CONNECTING), policy(State.CONNECTED), True),
        (policy(State.ERROR), policy(State.CONNECTING), True),
        (policy(State.CONNECTED), policy(State.CONNECTED, lan=True), True),
        (policy(State.CONNECTED), policy(State.DISCONNECTED), True),
        (policy(State.DISCONNECTING, kept=State.CONNECTED), policy(State.DISCONNECTED), True),
        (policy(State.DISCONNECTED, always_require_vpn=True), policy(State.CONNECTING), True),
        (None, policy(State.DISCONNECTED), True),
        (None, policy(State.CONNECTED), False),
        (policy(State.DISCONNECTED), policy(State.CONNECTING), False),
        (policy(State.CONNECTED), policy(State.CONNECTING), False),
        (policy(State.CONNECTED), policy(State.DISCONNECTING, kept=State.CONNECTED), False),
        (policy(State.CONNECTED), policy(State.ERROR), False),
        (policy(State.CONNECTED, lan=True), policy(State.CONNECTED), False),
        (policy(State.CONNECTING, lan=True), policy(State.CONNECTED), False),
        (policy(State.CONNECTED), policy(State.ERROR, lan=True), False),
        (policy(State.CONNECTED), policy(State.CONNECTED, peer=replace(PEER, port=1)), False),
    ],
)
def test_what_lets_more_through_is_a_loosening_and_what_is_in_doubt_is_none(
    before: Policy | None, after: Policy, opens: bool
) -> None:
    assert loosens(before, after) is opens


def test_tightening_begins_with_the_tun_and_loosening_with_the_firewall() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert world.log[:5] == ["open", "apply DIS-1", "apply DNS-3", "firewall connecting", "capture"]
        assert world.log[world.log.index("firewall connected") + 1] == "apply CTD-1"
        world.answers = False
        session.connect()
        await session.until(State.CONNECTING)
        keeping = world.log.index("firewall disconnecting")
        assert world.log[keeping - 1].startswith("apply ")
        session.disconnect()
        await session.until(State.DISCONNECTED)
        assert world.log.index("firewall removed") < world.log.index("release")
        assert world.table is None

    with_session(work, firewall=True)


def test_both_enforcers_are_given_the_same_policy_with_the_first_hop_and_the_tunnel() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert world.table == session.status.machine.policy
        assert world.table.peer == PEER
        assert world.table.tunnel == session.configuration.tunnel

    with_session(work, firewall=True)


def test_a_firewall_that_fails_to_tighten_leaves_the_tun_and_the_routes_tight_and_is_told() -> None:
    """ERR-3: the first policy cannot be loaded, so there is no firewall, but the VPN-service mode's enforcement."""

    async def work(session: Session, world: World) -> None:
        world.breaks_firewall = "Operation not supported"
        session.connect()
        await session.until(State.ERROR)
        await soon(lambda: not session.status.machine.enforced)
        assert "MAY BE LEAKING" in session.status.line()
        assert "nftables refused: Operation not supported" in session.status.line()
        assert world.captured is not None
        assert "apply DNS-3" in world.log
        world.breaks_firewall = ""
        await connected(session)
        assert session.status.machine.enforced

    with_session(work, firewall=True)


def test_a_firewall_that_fails_to_loosen_keeps_the_stricter_rules_in_the_tun_too() -> None:
    async def work(session: Session, world: World) -> None:
        world.answers = False
        session.connect()
        await soon(lambda: world.table is not None and world.table.tunnel is not None)
        await soon(lambda: not session.pending)
        strict, world.breaks_firewall, world.answers = world.table, "no memory", True
        await session.until(State.ERROR)
        await soon(lambda: not session.status.machine.enforced)
        assert world.table == strict
        assert "apply CTD-1" not in world.log
        assert "nftables refused: no memory" in session.status.line()

    with_session(work, firewall=True)


def test_a_firewall_that_fails_once_leads_to_an_error_that_is_enforced_and_says_why() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert "apply CTD-1" in world.log
        world.breaks_firewall = "once"
        session.change(replace(session.configuration, allow_lan=True))
        status = await session.until(State.ERROR)
        assert status.machine.enforced
        assert "nftables refused: once" in status.line()
        assert world.table == status.machine.policy

    with_session(work, firewall=True)


def test_a_program_that_cannot_be_published_tightens_the_firewall_all_the_same() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        world.breaks_apply = True
        session.connect()
        await session.until(State.ERROR)
        await soon(lambda: not session.status.machine.enforced)
        assert world.program is None
        assert world.table is not None
        assert world.table.state is State.ERROR

    with_session(work, firewall=True)


def test_a_table_that_cannot_be_removed_is_told_and_the_routes_go_all_the_same() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        world.breaks_firewall = "busy"
        session.disconnect()
        await session.until(State.DISCONNECTED)
        await soon(lambda: not session.status.machine.enforced)
        assert world.captured is None
        assert "nftables refused: busy" in session.status.line()

    with_session(work, firewall=True)


def test_always_require_vpn_keeps_the_table_that_blocks_after_stop() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        await session.stop()
        assert world.table is not None
        assert world.table.state is State.DISCONNECTED
        assert world.table.blocks

    with_session(work, firewall=True, always_require_vpn=True)


@pytest.mark.parametrize("firewall", [True, False])
def test_the_table_of_a_killed_run_stays_until_something_else_blocks(firewall: bool) -> None:
    async def work(session: Session, world: World) -> None:
        assert world.table == left
        await connected(session)
        order = [line for line in world.log if line.startswith(("firewall", "capture"))]
        if firewall:
            assert order[0] == "firewall connecting"
        else:
            assert order[:2] == ["capture", "firewall removed"]
            assert world.table is None

    left = policy(State.CONNECTED)
    with_session(work, World(table=left), firewall=firewall)


def test_a_session_that_never_connected_removes_the_table_of_a_killed_run() -> None:
    async def work(session: Session, world: World) -> None:
        await session.stop()
        assert world.table is None

    with_session(work, World(table=policy(State.CONNECTED)), firewall=True)


def test_without_nftables_a_session_in_the_firewall_mode_does_not_start() -> None:
    async def work(session: Session, world: World) -> None:
        raise AssertionError("the session must not start")

    world = World(breaks_firewall="missing")
    with pytest.raises(Unavailable, match="the kernel has no netfilter"):
        with_session(work, world, firewall=True)
    assert world.tuns == []


def test_the_status_says_which_mode_enforces_and_what_it_cannot_block() -> None:
    async def work(session: Session, world: World) -> None:
        details = session.details()
        assert details["mode"] == ("firewall" if session.configuration.firewall else "vpn-service")
        ids = {gap["id"] for gap in details["cannot_block"]}
        assert ids == ({"NFT-1", "NFT-2"} if session.configuration.firewall else {"LNX-1", "LNX-2", "LNX-3", "LNX-4"})

    with_session(work, firewall=True)
    with_session(work, firewall=False)


def test_a_living_session_stays_in_its_mode() -> None:
    async def work(session: Session, world: World) -> None:
        with pytest.raises(ValueError, match="stays in its mode firewall"):
            session.change(replace(session.configuration, firewall=False))

    with_session(work, firewall=True)


@pytest.mark.parametrize("profile", ["android", "ios", "ios-blocking"])
def test_a_phone_has_no_firewall(profile: str) -> None:
    builder = Builder(profile).set_wireguard(WIREGUARD).add_address("10.64.0.2/32").set_firewall(True)
    with pytest.raises(ValueError, match=f"the profile {profile} has no firewall"):
        builder.configuration()


def test_applications_that_go_past_the_vpn_and_the_firewall_exclude_each_other() -> None:
    builder = Builder().set_wireguard(WIREGUARD).add_address("10.64.0.2/32").add_disallowed_application(1000)
    with pytest.raises(ValueError, match="no application can go past the VPN"):
        builder.set_firewall(True).configuration()


def test_nftables_that_does_not_answer_is_a_failure_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    done = threading.Event()
    monkeypatch.setattr(firewall_module, "JOB_SECONDS", 0.02)
    monkeypatch.setattr(apply, "load", lambda policy, access, former: done.wait(5))

    async def main() -> None:
        nftables = Nftables()
        with pytest.raises(FirewallError, match="did not answer") as caught:
            await nftables.apply(policy(State.ERROR))
        assert not caught.value.enforced
        done.set()
        await nftables.close()

    asyncio.run(main())


def test_what_may_come_next_is_made_ready_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ready = policy(State.CONNECTED), []
    monkeypatch.setattr(firewall_module, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(apply, "load", lambda policy, access, former: None)
    monkeypatch.setattr(apply, "prepare", ready.append)

    async def main() -> None:
        nftables = Nftables()
        await nftables.apply(now)
        await soon(lambda: len(ready) == 4)
        assert {replace(now, state=State.ERROR), replace(now, allow_lan=True)} < set(ready)
        await nftables.close()

    asyncio.run(main())


def test_without_a_tunnel_only_error_is_made_ready_and_that_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ready, faults = policy(State.ERROR, tunnel=None), list[Policy](), list[object]()
    monkeypatch.setattr(firewall_module, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(apply, "load", lambda policy, access, former: None)
    monkeypatch.setattr(apply, "prepare", ready.append)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        nftables = Nftables()
        await nftables.apply(now)
        await soon(lambda: len(ready) == 2)
        await nftables.close()

    asyncio.run(main())
    assert ready == [now, replace(now, allow_lan=True)]
    assert faults == []


def test_nftables_looks_for_a_table_until_it_knows_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(apply, "load", lambda policy, access, former: calls.append("load"))
    monkeypatch.setattr(apply, "remove", lambda access: calls.append("remove"))

    async def main() -> None:
        nftables = Nftables()
        await nftables.remove()
        await nftables.remove()
        await nftables.apply(policy(State.ERROR))
        await nftables.remove()
        await nftables.close()

    asyncio.run(main())
    assert calls == ["remove", "load", "remove"]

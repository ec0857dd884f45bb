"""The explicit disconnect without a session: what cannot be removed does not keep the rest."""

from __future__ import annotations

import asyncio

import pytest

from engine.host import DnsError
from engine.policy import Policy, State
from engine.service import unblock
from tests.unit.service.fake import FakeDns, FakeFirewall, FakeHost, World
from tests.unit.service.test_session import own_place

__all__ = ["own_place"]  # a fixture, used by its name


def test_a_record_that_cannot_be_read_is_told_when_all_else_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(table=Policy(State.ERROR))
    dns = FakeDns(world)
    dns.breaks_recover = True
    monkeypatch.setattr(unblock, "Host", lambda: FakeHost(world))
    monkeypatch.setattr(unblock, "SystemDns", lambda: dns)
    monkeypatch.setattr(unblock, "Nftables", lambda: FakeFirewall(world))
    with pytest.raises(DnsError, match="a record cannot be read"):
        asyncio.run(unblock.remove_block("mh0"))
    assert world.table is None
    assert {"release", "firewall removed", "host closed", "dns closed", "firewall closed"} <= set(world.log)
